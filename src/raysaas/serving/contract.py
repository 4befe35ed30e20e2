"""The column contract of a source, held against the rows of requests.

Ingest judges the rows of files and events by it. A request is held to what it says of single values (required, min,
max, values, pattern), wherever a feature is a column: no model is asked about rows that none could learn from.
Features that are made of several rows have no contract of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from raysaas.errors import InputError
from raysaas.models.encode import Field
from raysaas.models.instances import as_taken
from raysaas.serving.protocol import PredictRequest
from raysaas.use_case import Column, OnBroken, Source, UseCase
from raysaas.view import lag_name

_RULES = ("min", "max", "values", "pattern")


def feature_columns(use_case: UseCase) -> dict[str, Column]:
    """The contract of each feature that is a column, by its name; rules that only warn are left out.

    What a view brings may be missing: its source can have no row of the entity yet. So may a lag.
    """
    example = use_case.sources[use_case.examples.source]
    found = {} if use_case.views else {name: _held(example, name) for name in example.columns}
    found |= _lags(example, use_case.examples.lags)
    every = list(chain.from_iterable(view.features() for view in use_case.views.values()))
    for name, view in use_case.views.items():
        source = use_case.sources[view.source]
        own = {key: _optional(source, key) for key in view.columns if key in source.columns} | _lags(source, view.lags)
        found |= {f"{name}_{key}" if every.count(key) > 1 else key: column for key, column in own.items()}
    return {name: column for name, column in found.items() if column.required or any(_rules(column))}


def _lags(source: Source, lags: Mapping[str, Sequence[int]]) -> dict[str, Column]:
    known = {key: backs for key, backs in lags.items() if key in source.columns}
    return {lag_name(key, back): _optional(source, key) for key, backs in known.items() for back in backs}


def _optional(source: Source, key: str) -> Column:
    return replace(_held(source, key), required=False)


def _held(source: Source, key: str) -> Column:
    column = source.columns[key]
    warned = [rule for rule in (*_RULES, "required") if source.chosen(rule, key) is OnBroken.warn]
    without: dict[str, Any] = {rule: False if rule == "required" else None for rule in warned}
    return replace(column, **without)


def _rules(column: Column) -> Iterator[bool]:
    return (getattr(column, rule) is not None for rule in _RULES)


@dataclass(frozen=True, slots=True)
class Rule:
    """What the values of one feature must be; None passes unless it is required."""

    field: Field
    required: bool
    low: float
    high: float
    allowed: frozenset[Any] | None
    pattern: str | None
    expected: str

    def holds(self, values: Sequence[Any]) -> bool:
        """Whether all ``values`` keep the rule, as far as that can be said at once; False where each must be seen."""
        try:
            if self.allowed is not None and not self.allowed.issuperset(values):
                return False
            bounded = self.low <= min(values) and max(values) <= self.high if self.field.kind != "category" else True
        except TypeError:  # nulls, or what is no number
            return False
        return bounded and self.pattern is None and not (self.required and None in values)

    def broken(self, value: Any) -> bool:
        """Whether one value that is not null breaks the rule. The encoder judges what no model takes."""
        taken = as_taken(self.field, value)
        if taken is None:
            return False
        if self.allowed is not None and taken not in self.allowed:
            return True
        if isinstance(taken, str):
            return self.pattern is not None and not _matches(self.pattern, taken)
        return not self.low <= taken <= self.high


class Contract:
    """The contract of a use case against the fields of whichever model answers."""

    def __init__(self, columns: Mapping[str, Column]) -> None:
        self._columns = columns
        self._fields: Sequence[Field] = ()
        self._rules: list[tuple[Callable[[Mapping[str, Any]], Any], Rule]] = []

    def check(self, request: PredictRequest, fields: Sequence[Field]) -> None:
        """Hold the given values of ``request`` to the contract. Raises InputError naming row and field.

        A required value may be absent from a row with an entity: it is read online.
        """
        if not self._columns:
            return
        if fields is not self._fields:
            self._rules, self._fields = self._made(fields), fields
        for value_of, rule in self._rules:
            values = [value_of(row) for row in request.instances]
            if not rule.holds(values):
                _check_each(rule, values, request.entities)

    def _made(self, fields: Sequence[Field]) -> list[tuple[Callable[[Mapping[str, Any]], Any], Rule]]:
        return [(_getter(one), rule_of(one, self._columns[one.name])) for one in fields if one.name in self._columns]


def rule_of(field: Field, column: Column) -> Rule:
    """The rule that ``column`` sets for a model's ``field``."""
    low = -math.inf if column.min is None else column.min
    high = math.inf if column.max is None else column.max
    allowed = None if column.values is None else frozenset(_allowed(field, column.values))
    if allowed is not None and not column.required:
        allowed |= {None}
    return Rule(field, column.required, low, high, allowed, column.pattern, _expected(column))


def _allowed(field: Field, values: Sequence[str]) -> Iterator[Any]:
    for value in values:
        if field.kind in ("category", "boolean"):
            yield as_taken(field, value)
        else:
            with suppress(ValueError):  # a value that is no number is none that a number can have
                yield float(value)


def _expected(column: Column) -> str:
    parts = [f"one of {', '.join(column.values[:20])}"] if column.values else []
    parts += [f"at least {column.min:g}"] if column.min is not None else []
    parts += [f"at most {column.max:g}"] if column.max is not None else []
    return " and ".join(parts + ([f"text that matches {column.pattern}"] if column.pattern else []))


def _getter(field: Field) -> Callable[[Mapping[str, Any]], Any]:
    name, other = field.name, field.source_name
    if name == other:
        return lambda row: row.get(name)
    return lambda row: row[name] if name in row else row.get(other)


def _check_each(rule: Rule, values: Sequence[Any], entities: Sequence[str | None]) -> None:
    for index, (value, entity) in enumerate(zip(values, entities, strict=True)):
        if value is None:
            if rule.required and entity is None:
                raise _broken(rule, index, "is missing", "a value: the field is required")
        elif rule.broken(value):
            raise _broken(rule, index, "breaks the contract", rule.expected)


def _broken(rule: Rule, index: int, what: str, expected: str) -> InputError:
    return InputError(f"Instance {index}, field {rule.field.name!r} {what}: expected {expected}.")


def _matches(pattern: str, text: str) -> bool:
    # RE2, as at ingest: its time is linear in the text, whatever a client sends.
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pc.match_substring_regex(pa.array([text], pa.string()), rf"\A(?:{pattern})\z")[0].as_py())
