"""What clients report back, in the words of the training data. Pure."""

from collections.abc import Sequence
from typing import Any

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.serving.protocol import Feedback
from raysaas.serving.spec import AppSpec


def outcome_records(
    outcomes: Sequence[Feedback], spec: AppSpec, tenant: str, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Journal records of ``outcomes``; ids need not be known yet, they are joined to decisions later."""
    return [
        {
            "decision_id": outcome.decision_id,
            "use_case": spec.use_case,
            "tenant": tenant,
            "label": spell(outcome.label, spec.task, labels, f"outcomes[{index}].label"),
            "observed_at": outcome.observed_at.isoformat(),
        }
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
        return repr(float(label))
    except ValueError:
        raise InputError(f"{where} is not a number, which a regression needs.") from None
