"""Which columns of an unknown file are label, time, tenant and entity, and what task the label makes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.ingest.guess import FEW, Guess, named_id, named_time, present
from raysaas.ingest.sources import identifier
from raysaas.records import Task

_LABELS = (
    "label",
    "target",
    "y",
    "class",
    "churn",
    "churned",
    "outcome",
    "response",
    "is_churn",
    "is_fraud",
    "fraud",
    "default",
    "survived",
    "converted",
    "exited",
    "attrition",
    "result",
    "income",
    "species",
    "quality",
)
_TENANTS = ("tenant", "tenant_id", "org", "org_id", "organization_id", "organisation_id", "workspace_id", "company_id")
_PEOPLE = ("customer", "user", "client", "account", "member", "patient", "device", "entity", "subscriber")
_NOT_THE_TIME = ("birth", "dob", "expir", "due", "end", "close", "cancel", "churn", "last", "until")
_POSITIVE = ("1", "yes", "true", "y", "t", "churned", "churn", "positive", "pos", "fraud", "bad", "default", "exited")


@dataclass(slots=True)
class Seen:
    """What was read: ``sample`` has some rows of all columns, ``whole`` all rows of the columns that need them.

    ``nested`` columns lie inside objects; ``infinite`` counts the infinities of columns that have some.
    """

    names: list[str]
    sample: pa.Table
    whole: pa.Table
    num_rows: int
    guesses: dict[str, Guess]
    said: list[str] = field(default_factory=list)
    nested: tuple[str, ...] = ()
    infinite: dict[str, int] = field(default_factory=dict)


def is_hinted(name: str) -> bool:
    """Whether a column's name is one that labels have."""
    return identifier(name).lower() in _LABELS


def choose(file: Seen, given: dict[str, str]) -> dict[str, str | None]:
    """The columns of the roles label, time, tenant and entity: those given, else the likeliest."""
    roles: dict[str, str | None] = dict(given)
    for role, likeliest in (("label", _label), ("time", _time), ("tenant", _tenant), ("entity", _entity)):
        if role not in roles:
            roles[role] = likeliest(file, {column for column in roles.values() if column})
    return roles


def _label(file: Seen, taken: set[str]) -> str:
    free = {name: found for name, found in file.guesses.items() if name not in taken and found.distinct > 1}
    by_name = sorted((name for name in free if is_hinted(name)), key=lambda n: _LABELS.index(identifier(n).lower()))
    fitting = [name for name in file.names if name in free and not free[name].why_not and not free[name].is_time]
    constant = [n for n, found in file.guesses.items() if n not in taken and is_hinted(n) and found.constant]
    if constant and not by_name:
        has = "one value only" if file.guesses[constant[0]].present else "no value at all"
        raise InputError(
            f"The column {constant[0]!r} is named like a label but has {has}: nothing to learn. Name another with "
            "--label."
        )
    if not by_name and not fitting:
        raise InputError("No column can be the label: all are constant, ids, times or free text. Name it with --label.")
    chosen = by_name[0] if by_name else fitting[-1]
    why = "by its name" if by_name else "because it is the last column that can be"
    file.said.append(f"The label is {chosen!r}, {why}; --label COL takes another.")
    return chosen


def _time(file: Seen, taken: set[str]) -> str | None:
    full = {n: found for n, found in file.guesses.items() if found.is_time and found.present >= 0.98 * file.num_rows}
    times = [n for n in full if n not in taken and not _contains(n, _NOT_THE_TIME)]
    times.sort(key=lambda n: (not named_time(n), -file.guesses[n].distinct))
    if not times:
        file.said.append("No column says when a row happened, so rows are held back by hash; --time COL names one.")
        return None
    file.said.append(f"Rows happened at {times[0]!r}, so the latest are held back; --time COL takes another.")
    return times[0]


def _contains(name: str, words: Iterable[str]) -> bool:
    return any(word in name.lower() for word in words)


def _tenant(file: Seen, taken: set[str]) -> str | None:
    found = next((n for n in file.names if n.lower() in _TENANTS and n not in taken), None)
    file.said.append(
        f"Rows belong to the tenant in {found!r}."
        if found
        else "No column names a tenant, so all rows belong to the tenant 'default'; --tenant COL names one."
    )
    return found


def _entity(file: Seen, taken: set[str]) -> str | None:
    ids = [n for n, found in file.guesses.items() if n not in taken and found.is_id]
    ids.sort(key=lambda n: (not file.guesses[n].unique, not named_id(n), not _contains(n, _PEOPLE)))
    if not ids:
        file.said.append("No column identifies a row, so each row is an entity of its own; --entity COL names one.")
        return None
    file.said.append(f"The entity is {ids[0]!r}; --entity COL takes another.")
    return ids[0]


def task_of(file: Seen, label: str | None) -> tuple[Task, str | None]:
    """Task and positive label, from all values of the label."""
    values = present(file.whole[str(label)])
    tally = pc.value_counts(values).to_pylist() if len(values) else []
    counts = {str(_plain(item["values"])): item["counts"] for item in tally}
    if len(counts) < 2:
        only = f"only the value {next(iter(counts))!r}" if counts else "no value at all"
        raise InputError(f"The label {label!r} has {only}: nothing to learn. Name another column with --label.")
    if missing := file.num_rows - len(values):
        file.said.append(f"{missing:,} rows have no label and are left out of training.")
    if len(counts) == 2:
        positive = min(counts, key=lambda value: (_rank(value), counts[value]))
        file.said.append(f"The task is binary: {label!r} has two values, and {positive!r} is the positive one.")
        return Task.binary, positive
    number = file.guesses[str(label)].strays or all(map(_is_number, counts))
    return (_number_task if number else _word_task)(file, str(label), counts, len(values)), None


def _number_task(file: Seen, label: str, counts: dict[str, int], num_values: int) -> Task:
    if all(map(_is_whole, counts)) and len(counts) <= min(FEW, num_values / 3):
        file.said.append(
            f"The task is multiclass: {label!r} has {len(counts)} classes (whole numbers, at most {FEW}); "
            "set task: regression to predict the number."
        )
        return Task.multiclass
    file.said.append(
        f"The task is regression: {label!r} has {len(counts):,} distinct numbers; set task: multiclass to "
        "make them classes."
    )
    return Task.regression


def _word_task(file: Seen, label: str, counts: dict[str, int], num_values: int) -> Task:
    if len(counts) > max(FEW, min(200, num_values // 10)):
        raise InputError(
            f"The label {label!r} has {len(counts):,} different words: too many to be classes. Name "
            "another column with --label."
        )
    file.said.append(f"The task is multiclass: {label!r} has {len(counts)} classes.")
    return Task.multiclass


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rank(value: str) -> int:
    return _POSITIVE.index(value.lower()) if value.lower() in _POSITIVE else len(_POSITIVE)


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _is_whole(value: str) -> bool:
    return _is_number(value) and float(value).is_integer()
