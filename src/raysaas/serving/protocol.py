"""Request and response shapes of the HTTP interface: bytes in, checked values out, and back.

Parsing is orjson plus a handful of type checks (a row's fields are checked by the model's own encoder), which costs a
fifth of a pydantic model. Every refusal is an error of ``raysaas.errors`` and names the field; :func:`problem` turns it
into ``application/problem+json`` (RFC 9457).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson

from raysaas.errors import InputError, QuotaExceeded, RaysaasError, Terminal

PROBLEMS = "https://raysaas.dev/problems/"
JSON = b"application/json"
PROBLEM_JSON = b"application/problem+json"
_MAX_KEY = 200


class OverQuota(QuotaExceeded):
    """A tenant is over its limit; ``retry_after_s`` says for how long."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Rows to score. ``instances`` and ``entities`` have the same length; a row has either or both.

    ``keys`` are the caller's own names of the decisions, by which it may report outcomes; empty without any.
    """

    instances: Sequence[Mapping[str, Any]]
    entities: Sequence[str | None]
    by_entity: bool
    keys: Sequence[str | None] = ()


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
    """Check the body of ``POST /predict``: ``instances`` (objects) and/or ``entities`` (strings), and ``keys``."""
    parsed = load_object(body)
    instances, entities, keys = parsed.pop("instances", None), parsed.pop("entities", None), parsed.pop("keys", None)
    if parsed:
        raise InputError(f"Unknown field {next(iter(parsed))!r}: expected 'instances' and/or 'entities', and 'keys'.")
    if instances is None and entities is None:
        raise InputError("Give 'instances' (a list of objects) and/or 'entities' (a list of entity ids).")
    given = instances if instances is not None else entities
    num = len(parse_list(given, "instances" if entities is None else "entities"))
    if not 1 <= num <= max_instances:
        raise InputError(f"The request has {num} rows: expected 1 to {max_instances}.")
    names = _entities(entities, num, instances is None)
    return PredictRequest(_instances(instances, num), names, entities is not None, _keys(keys, num))


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


def _keys(value: Any, num: int) -> Sequence[str | None]:
    if value is None:
        return ()
    if len(parse_list(value, "keys")) != num:
        raise InputError(f"'keys' has {len(value)} items and the request {num} rows: expected as many of both.")
    return [None if key is None else parse_key(key, f"keys[{index}]") for index, key in enumerate(value)]


def parse_key(value: Any, where: str) -> str:
    """The caller's own name of a decision: text of 1 to 200 characters."""
    if type(value) is not str:
        raise InputError(f"{where} must be a string, not {kind_of(value)}.")
    if not 1 <= len(value) <= _MAX_KEY:
        raise InputError(f"{where} has {len(value)} characters: expected 1 to {_MAX_KEY}.")
    return value


def parse_list(value: Any, name: str) -> list[Any]:
    """``value`` if it is a list, else InputError naming the field."""
    if type(value) is not list:
        raise InputError(f"{name!r} must be a list, not {kind_of(value)}.")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list"}
    return names.get(type(value), "an object")


def decisions_body(decisions: Sequence[Mapping[str, Any]]) -> bytes:
    """The answer to ``POST /predict``."""
    return orjson.dumps({"decisions": decisions})


def problem(error: RaysaasError) -> tuple[int, bytes, list[tuple[bytes, bytes]]]:
    """Status, body and extra headers of a refusal; the message of a server-side failure stays inside."""
    status = error.http_status
    inside = status >= 500 and status not in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)
    detail = "The request could not be answered; the operator can find it in the log." if inside else str(error)
    headers = []
    if isinstance(error, OverQuota):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(min(error.retry_after_s, 3600.0)))))
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
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
