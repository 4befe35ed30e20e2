"""Rules that look at one row: what each column must hold, and the conditions between columns. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import ConfigError
from raysaas.ingest.actions import action
from raysaas.ingest.casts import ARROW, as_text, cast, connection, flat, mask
from raysaas.use_case import Column, ColumnType, OnBroken, Source

_NUMERIC = (ColumnType.number, ColumnType.integer)


@dataclass(frozen=True, slots=True)
class Fault:
    """Rows ``where`` a rule is broken, with the values that broke it (None: those the condition looks at)."""

    rule: str
    column: str
    where: np.ndarray
    values: pa.Array | None
    action: OnBroken


@dataclass(slots=True)
class Rows:
    """Rows under check: the file's table, the typed columns so far and the faults found, in order of the contract."""

    table: pa.Table
    source: Source
    typed: dict[str, pa.Array] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(
        self, rule: str, column: str, where: np.ndarray, values: pa.Array | None, does: OnBroken | None = None
    ) -> None:
        """Note rows that break a rule; ``does`` is said where ``on_broken`` has no say."""
        if where.any():
            self.faults.append(Fault(rule, column, where, values, does or action(self.source, rule, column)))

    def refused_for(self, column: str) -> np.ndarray:
        """Rows that are refused because of ``column`` already."""
        mine = [f.where for f in self.faults if f.column == column and f.action is not OnBroken.warn]
        return np.any(mine, axis=0) if mine else np.zeros(self.table.num_rows, bool)


def check_column(rows: Rows, key: str, spec: Column, column: pa.ChunkedArray | None, day_first: bool | None) -> None:
    """Type ``column`` (None: the file has none) and note what breaks the rules of ``spec``."""
    if column is None:
        rows.typed[key] = pa.nulls(rows.table.num_rows, ARROW[spec.type])
        return
    done, raw = cast(column, spec.type, day_first=day_first, keep=tuple(spec.values or ())), flat(column)
    values = rows.typed[key] = done.values
    rows.fault("type", key, done.bad, raw)
    rows.fault("finite", key, done.infinite, raw)
    if spec.required and values.null_count:
        rows.fault("required", key, mask(pc.is_null(values)) & ~done.bad & ~done.infinite, raw)
    if spec.min is not None and spec.type in _NUMERIC:
        rows.fault("min", key, mask(pc.less(values, spec.min)), raw)
    if spec.max is not None and spec.type in _NUMERIC:
        rows.fault("max", key, mask(pc.greater(values, spec.max)), raw)
    if spec.values is not None:
        listed = pa.chunked_array([pa.array(spec.values, pa.string())])
        allowed = cast(listed, spec.type, keep=tuple(spec.values)).values
        rows.fault("values", key, ~mask(pc.is_in(values, value_set=allowed)) & mask(pc.is_valid(values)), raw)
    if spec.pattern is not None:
        rows.fault("pattern", key, mask(pc.invert(_matches(values, key, spec.pattern))), raw)


def _matches(values: pa.Array, key: str, pattern: str) -> pa.Array:
    try:
        return pc.match_substring_regex(values, rf"\A(?:{pattern})\z")
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"use_case.sources.<source>.columns.{key}.pattern={pattern!r} is no regular expression (RE2): {error}."
        ) from error


def check_conditions(rows: Rows, columns: Mapping[str, pa.Array]) -> None:
    """Note rows for which a condition of ``rules`` is false over ``columns``; null, or a value it fails on, passes.

    Raises ConfigError naming a rule that does not work or is no condition.
    """
    rules = rows.source.rules
    if not rules:
        return
    try:
        answers = _evaluate(rules, columns)
    except duckdb.Error:
        answers = {rule: _one(rule, condition, columns) for rule, condition in rules.items()}
    for rule, answer in answers.items():
        if not pa.types.is_boolean(answer.type):
            raise ConfigError(
                f"use_case.sources.<source>.rules.{rule}={rules[rule]!r} gives {answer.type}: expected a condition."
            )
        rows.fault(rule, "", mask(pc.invert(answer)), None)


def _evaluate(rules: Mapping[str, str], columns: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    select = ", ".join(f'TRY({condition}) AS "{rule}"' for rule, condition in rules.items())
    with connection() as db:
        db.register("t", pa.table(dict(columns)))
        answers = db.sql(f"SELECT {select} FROM t").to_arrow_table()
    return {rule: flat(answers[rule]) for rule in rules}


def _one(rule: str, condition: str, columns: Mapping[str, pa.Array]) -> pa.Array:
    try:
        return _evaluate({rule: condition}, columns)[rule]
    except duckdb.Error as error:
        raise ConfigError(
            f"use_case.sources.<source>.rules.{rule}={condition!r} does not work: {str(error).splitlines()[0]} "
            f"Columns to use: {', '.join(columns)}."
        ) from error


def shown(fault: Fault, source: Source, rows: pa.Table, at: np.ndarray) -> pa.Array:
    """The values that broke a rule, as text, in the rows ``at``; of a condition, all columns it names."""
    where = pa.array(at, pa.int64())
    if fault.values is not None:
        return as_text(fault.values.take(where))
    condition = source.rules[fault.rule]
    named = [name for name in rows.column_names if name in condition] or rows.column_names[:1]
    told = [
        ", ".join(f"{key}={value}" for key, value in row.items()) for row in rows.select(named).take(where).to_pylist()
    ]
    return pa.array(told, pa.string())
