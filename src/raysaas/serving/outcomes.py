"""What clients report back, in the words of the training data. Pure."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.serving.protocol import kind_of, load_object, parse_key, parse_list
from raysaas.serving.spec import AppSpec

# The form of the ids that replicas and edge nodes make. Another can never be joined to a decision.
DECISION_ID = re.compile("[0-9a-f]{32}")
_FIELDS = {"decision_id", "key", "label", "observed_at"}


@dataclass(frozen=True, slots=True)
class Feedback:
    """What happened after a decision, named by its id or by the key that the caller gave it.

    ``label`` is a string, number or boolean as sent.
    """

    decision_id: str | None
    key: str | None
    label: str | float | bool
    observed_at: datetime


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
    if unknown := item.keys() - _FIELDS:
        raise InputError(f"{where} has the unknown field {min(unknown)!r}: expected {', '.join(sorted(_FIELDS))}.")
    decision, key, label = item.get("decision_id"), item.get("key"), item.get("label")
    if (decision is None) == (key is None):
        raise InputError(f"{where} must name its decision by either decision_id or key.")
    if decision is not None and (type(decision) is not str or not DECISION_ID.fullmatch(decision)):
        raise InputError(f"{where}.decision_id must be that of an answer: 32 digits, each one of 0-9 or a-f.")
    if not isinstance(label, str | int | float):
        raise InputError(f"{where}.label must be a string, a number or a boolean, not {kind_of(label)}.")
    moment = _moment(item.get("observed_at"), f"{where}.observed_at", now)
    return Feedback(decision, None if key is None else parse_key(key, f"{where}.key"), label, moment)


def _moment(value: Any, where: str, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where} must be an ISO 8601 time such as '2026-01-31T12:00:00Z'.") from None


def outcome_records(
    outcomes: Sequence[Feedback], spec: AppSpec, tenant: str, labels: Sequence[str], now: datetime
) -> list[dict[str, Any]]:
    """Journal records of ``outcomes``; their decisions need not be known yet, they are joined later.

    Of several for one decision the one observed last counts, then the one that came (``known_at``) last; nothing is
    observed later than it came, whatever another clock says.
    """
    return [
        {
            "decision_id": outcome.decision_id,
            "use_case": spec.use_case,
            "tenant": tenant,
            "label": spell(outcome.label, spec.task, labels, f"outcomes[{index}].label"),
            "observed_at": outcome.observed_at.isoformat(),
            "known_at": (now + timedelta(microseconds=index)).isoformat(),  # of one request the last one came last
        }
        | ({} if outcome.key is None else {"key": outcome.key})
        for index, outcome in enumerate(outcomes)
    ]


def spell(label: str | float | bool, task: Task, labels: Sequence[str], where: str) -> str:
    """The label as the model spells it; an error names ``where`` it is wrong, and never the label.

    ``labels`` of a binary model are (negative, positive): true and 1 mean the positive one where the model has no label
    of that spelling. A class the model never saw is kept (it is news), except in a binary task.
    """
    if task is Task.regression:
        return _number(label, where)
    text = _text(label)
    if text in labels or task is Task.multiclass:
        return text
    by_word = {"true": labels[1], "1": labels[1], "false": labels[0], "0": labels[0]}
    if text.lower() not in by_word:
        raise InputError(f"{where} is not one of {labels[0]!r}, {labels[1]!r}, true, false.")
    return by_word[text.lower()]


def _text(label: str | float | bool) -> str:
    if isinstance(label, bool):
        return str(label).lower()
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _number(label: str | float | bool, where: str) -> str:
    try:
        number = float(label)
    except (ValueError, OverflowError):
        raise InputError(f"{where} is not a number, which a regression needs.") from None
    if not math.isfinite(number):
        raise InputError(f"{where} is not a finite number, which a regression needs.")
    return repr(number)
