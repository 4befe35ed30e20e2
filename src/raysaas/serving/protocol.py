"""Request and response shapes of the HTTP interface: bytes in, checked values out, and back.

Parsing is orjson plus a handful of type checks (a row's fields are checked by the model's own encoder), which costs a
fifth of a pydantic model. Every refusal is an error of ``raysaas.errors`` and names the field; :func:`problem` turns it
into ``application/problem+json`` (RFC 9457).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orjson

from raysaas.errors import InputError, QuotaExceeded, RaysaasError, Terminal

PROBLEMS = "https://raysaas.dev/problems/"
JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"
# The form of the ids that replicas and edge nodes make. Another can never be joined to a decision.
DECISION_ID = re.compile("[0-9a-f]{32}")


class OverQuota(QuotaExceeded):
    """A tenant is over its limit; ``retry_after_s`` says for how long."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Rows to score. ``instances`` and ``entities`` have the same length; a row has either or both."""

    instances: Sequence[Mapping[str, Any]]
    entities: Sequence[str | None]
    by_entity: bool


@dataclass(frozen=True, slots=True)
class Feedback:
    """What happened after one decision; ``label`` is a string, number or boolean as sent."""

    decision_id: str
    label: str | float | bool
    observed_at: datetime


def load_object(body: bytes) -> dict[str, Any]:
    """Parse a JSON object, or raise Terminal (400) for other bytes and InputError (422) for other JSON."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Terminal(f"The body is not valid JSON: {error}.") from None
    if type(parsed) is not dict:
        raise InputError(f"The body must be a JSON object, not {kind_of(parsed)}.")
    return parsed


def parse_predict(body: bytes, max_instances: int) -> PredictRequest:
    """Check the body of ``POST /predict``: ``instances`` (objects) and/or ``entities`` (strings)."""
    parsed = load_object(body)
    instances, entities = parsed.pop("instances", None), parsed.pop("entities", None)
    if parsed:
        raise InputError(f"Unknown field {next(iter(parsed))!r}: expected 'instances' and/or 'entities'.")
    if instances is None and entities is None:
        raise InputError("Give 'instances' (a list of objects) and/or 'entities' (a list of entity ids).")
    given = instances if instances is not None else entities
    num = len(parse_list(given, "instances" if entities is None else "entities"))
    if not 1 <= num <= max_instances:
        raise InputError(f"The request has {num} rows: expected 1 to {max_instances}.")
    return PredictRequest(_instances(instances, num), _entities(entities, num, instances is None), entities is not None)


def _instances(value: Any, num: int) -> Sequence[Mapping[str, Any]]:
    if value is None:
        return [{}] * num
    for index, row in enumerate(parse_list(value, "instances")):
        if type(row) is not dict:
            raise InputError(f"instances[{index}] must be an object of feature values, not {kind_of(row)}.")
    return value  # type: ignore[no-any-return]


def _entities(value: Any, num: int, required: bool) -> Sequence[str | None]:
    if value is None:
        return [None] * num
    if len(parse_list(value, "entities")) != num:
        raise InputError(f"'entities' has {len(value)} items and 'instances' {num}: expected as many of both.")
    for index, entity in enumerate(value):
        if type(entity) is not str and (required or entity is not None):
            raise InputError(f"entities[{index}] must be a string, not {kind_of(entity)}.")
    return value  # type: ignore[no-any-return]


def parse_feedback(body: bytes, max_outcomes: int, now: datetime) -> list[Feedback]:
    """Check the body of ``POST /feedback``; ``observed_at`` is an ISO time, by default ``now``."""
    parsed = load_object(body)
    outcomes = parse_list(parsed.pop("outcomes", None), "outcomes")
    if parsed:
        raise InputError(f"Unknown field {next(iter(parsed))!r}: expected 'outcomes'.")
    if not 1 <= len(outcomes) <= max_outcomes:
        raise InputError(f"The request has {len(outcomes)} outcomes: expected 1 to {max_outcomes}.")
    return [_outcome(item, f"outcomes[{index}]", now) for index, item in enumerate(outcomes)]


def _outcome(item: Any, where: str, now: datetime) -> Feedback:
    if type(item) is not dict:
        raise InputError(f"{where} must be an object, not {kind_of(item)}.")
    unknown = item.keys() - {"decision_id", "label", "observed_at"}
    if unknown:
        raise InputError(f"{where} has the unknown field {min(unknown)!r}: expected decision_id, label, observed_at.")
    decision, label = item.get("decision_id"), item.get("label")
    if type(decision) is not str or not DECISION_ID.fullmatch(decision):
        raise InputError(f"{where}.decision_id must be that of an answer: 32 digits, each one of 0-9 or a-f.")
    if not isinstance(label, str | int | float):
        raise InputError(f"{where}.label must be a string, a number or a boolean, not {kind_of(label)}.")
    return Feedback(decision, label, _moment(item.get("observed_at"), f"{where}.observed_at", now))


def _moment(value: Any, where: str, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where} must be an ISO 8601 time such as '2026-01-31T12:00:00Z'.") from None


def parse_list(value: Any, name: str) -> list[Any]:
    """``value`` if it is a list, else InputError naming the field."""
    if type(value) is not list:
        raise InputError(f"{name!r} must be a list, not {kind_of(value)}.")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def problem(error: RaysaasError) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body and extra headers of a refusal; the message of a server-side failure stays inside."""
    status = error.http_status
    inside = status >= 500 and status != HTTPStatus.SERVICE_UNAVAILABLE
    detail = "The request could not be answered; the operator can find it in the log." if inside else str(error)
    headers = []
    if isinstance(error, OverQuota):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(min(error.retry_after_s, 3600.0)))))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        headers.append((b"connection", b"close"))
    return status, problem_body(status, error.slug, detail), headers


def problem_body(status: int, slug: str, detail: str) -> bytes:
    """The problem+json document."""
    title = HTTPStatus(status).phrase
    return orjson.dumps({"type": PROBLEMS + slug, "title": title, "status": status, "detail": detail})


def with_error(body: bytes) -> bytes:
    """A problem+json document with its detail as ``error`` too, where the Open Inference Protocol's clients look."""
    document = orjson.loads(body)
    return orjson.dumps({**document, "error": document["detail"]})
