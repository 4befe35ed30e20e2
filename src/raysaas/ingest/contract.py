"""The contract of a source: which rows may enter, and what the platform adds to them. Pure: Arrow in, Arrow out.

Row rules (type, finite, required, min, max, values, future) look at one row; the rules across rows (unique, time_order)
look at all rows that passed those. A refused row is recorded once, under the first rule it broke, columns in the order
of the contract. Of rows with equal unique keys the first stays; a row is out of order when its entity was already seen
at a later time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import ConfigError
from raysaas.ingest.across import QUARANTINE, broken, quarantine, to_json, without
from raysaas.ingest.binding import ROLES, bind, date_orders
from raysaas.ingest.casts import ARROW, TIME, as_text, cast, connection, flat, mask
from raysaas.use_case import Column, ColumnType, Source

_NUMERIC = (ColumnType.number, ColumnType.integer)


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows in the platform's types and columns, and refused rows in the schema ``QUARANTINE``."""

    accepted: pa.Table
    refused: pa.Table


@dataclass(frozen=True, slots=True)
class _Fault:
    rule: str
    column: str
    where: np.ndarray
    values: pa.Array


@dataclass(slots=True)
class _Rows:
    """Rows under check: the file's table, the typed columns so far and the faults found, in order of the contract."""

    table: pa.Table
    typed: dict[str, pa.Array] = field(default_factory=dict)
    faults: list[_Fault] = field(default_factory=list)

    def fault(self, rule: str, column: str, where: np.ndarray, values: pa.Array) -> None:
        if where.any():
            self.faults.append(_Fault(rule, column, where, values))


def check(
    table: pa.Table,
    source: Source,
    *,
    now: datetime,
    row_offset: int = 0,
    file: str = "",
    digest: str = "",
    future_tolerance_s: int = 86_400,
) -> Checked:
    """Split ``table`` (the file's own column names) into rows that keep the whole contract and rows that do not.

    ``row_offset`` rows of the file come before it. Raises InputError when a column of the contract is not in the table,
    ConfigError when the contract contradicts itself.
    """
    digest = digest or hashlib.sha256(file.encode()).hexdigest()
    numbers = np.arange(table.num_rows) + row_offset + 1
    rows = check_rows(
        table, source, now=now, numbers=numbers, file=file, digest=digest, future_tolerance_s=future_tolerance_s,
        day_first=date_orders(source, table),
    )  # fmt: skip
    with connection() as db:
        db.register("rows", rows.accepted.append_column("pos", pa.array(np.arange(rows.accepted.num_rows))))
        found = broken(db, source)
    kept, refused = without(rows.accepted, found, {digest[:16]: file}, now)
    return Checked(kept, pa.concat_tables([rows.refused, refused]).sort_by("row_number"))


def check_rows(
    table: pa.Table,
    source: Source,
    *,
    now: datetime,
    numbers: np.ndarray,
    file: str,
    digest: str,
    future_tolerance_s: int = 86_400,
    day_first: Mapping[str, bool] | None = None,
) -> Checked:
    """Apply the row rules only: what a task can do with one block. ``numbers`` are the rows' numbers in the file."""
    names = bind(source, table.column_names).names
    rows = _Rows(table)
    for key, spec in source.columns.items():
        _column(rows, key, spec, table[names[key]] if key in names else None, (day_first or {}).get(key))
    _derive(rows, source, numbers)
    rows.typed["row_id"] = _row_ids(digest, numbers)
    _roles(rows, source, now, now + timedelta(seconds=future_tolerance_s))
    first = np.full(table.num_rows, -1, np.int32)
    for i, found in enumerate(rows.faults):
        first[(first < 0) & found.where] = i
    kept = pa.table(rows.typed)
    if not rows.faults:
        return Checked(kept, QUARANTINE.empty_table())
    return Checked(kept.filter(pa.array(first < 0)), _refused(rows, first, numbers, file, now))


def _column(rows: _Rows, key: str, spec: Column, column: pa.ChunkedArray | None, day_first: bool | None) -> None:
    if column is None:
        rows.typed[key] = pa.nulls(rows.table.num_rows, ARROW[spec.type])
        return
    done, raw = cast(column, spec.type, day_first=day_first, keep=tuple(spec.values or ())), flat(column)
    rows.typed[key] = done.values
    rows.fault("type", key, done.bad, raw)
    rows.fault("finite", key, done.infinite, raw)
    if spec.required:
        rows.fault("required", key, mask(pc.is_null(done.values)) & ~done.bad & ~done.infinite, raw)
    if spec.min is not None and spec.type in _NUMERIC:
        rows.fault("min", key, mask(pc.less(done.values, spec.min)), raw)
    if spec.max is not None and spec.type in _NUMERIC:
        rows.fault("max", key, mask(pc.greater(done.values, spec.max)), raw)
    if spec.values is not None:
        listed = pa.chunked_array([pa.array(spec.values, pa.string())])
        known = mask(pc.is_in(done.values, value_set=cast(listed, spec.type, keep=tuple(spec.values)).values))
        rows.fault("values", key, ~known & mask(pc.is_valid(done.values)), raw)


def _derive(rows: _Rows, source: Source, numbers: np.ndarray) -> None:
    """Add the derived columns. DuckDB sees times as plain UTC timestamps; where an expression fails, it gives null."""
    if not source.derive:
        return
    columns = {key: _naive(values) for key, values in rows.typed.items()}
    others = bind(source, rows.table.column_names).ignored
    columns |= {key: _naive(flat(rows.table[name])) for key, name in others.items() if key not in columns}
    columns.setdefault("row_number", pa.array(numbers))
    select = ", ".join(f'TRY({expression}) AS "{key}"' for key, expression in source.derive.items())
    try:
        with connection() as db:
            db.register("t", pa.table(columns))
            derived = db.sql(f"SELECT {select} FROM t").to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(
            f"use_case.sources.<source>.derive ({', '.join(source.derive)}) does not work: {error} "
            f"Columns to use: {', '.join(columns)}."
        ) from error
    rows.typed |= {key: _platform(flat(derived[key])) for key in source.derive}


def _naive(values: pa.Array) -> pa.Array:
    return values.cast(pa.timestamp("us")) if pa.types.is_timestamp(values.type) else values


def _platform(values: pa.Array) -> pa.Array:
    """A DuckDB result in one of the platform's types."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return cast(pa.chunked_array([values]), ColumnType.time).values
    if pa.types.is_boolean(values.type) or pa.types.is_string(values.type):
        return values
    kind = ColumnType.integer if pa.types.is_integer(values.type) else ColumnType.number
    return cast(pa.chunked_array([values]), kind).values


def _roles(rows: _Rows, source: Source, now: datetime, latest: datetime) -> None:
    """Make the platform columns ``tenant``, ``entity``, ``event_time`` and ``known_at``."""
    made: dict[str, pa.Array] = {}
    for role, setting in ROLES.items():
        key = getattr(source, setting)
        if key is None:
            continue
        values = as_text(rows.typed[key]) if role in ("tenant", "entity") else rows.typed[key]
        if pa.types.is_timestamp(values.type) != (role in ("event_time", "known_at")):
            raise ConfigError(
                f"use_case.sources.<source>.{setting}={key!r} names a column of {values.type}: expected type time. "
                "Declare the column as time, or derive one."
            )
        made[role] = values
        if not (key in source.columns and source.columns[key].required):
            already = np.any([f.where for f in rows.faults if f.column == key], axis=0)
            rows.fault("required", key, mask(pc.is_null(values)) & ~already, values)
        if pa.types.is_timestamp(values.type):
            rows.fault("future", key, mask(pc.greater(values, pa.scalar(latest, TIME))), values)
    num_rows = rows.table.num_rows
    made.setdefault("entity", rows.typed["row_id"])
    made.setdefault("tenant", pa.repeat(pa.scalar("default"), num_rows))
    made.setdefault("event_time", pa.repeat(pa.scalar(now, TIME), num_rows))
    made.setdefault("known_at", made["event_time"])
    rows.typed |= {role: made[role] for role in ROLES}


def _row_ids(digest: str, numbers: np.ndarray) -> pa.Array:
    prefix = pa.scalar(f"{digest[:16]}-")
    return pc.binary_join_element_wise(prefix, pa.array(numbers, pa.int64()).cast(pa.string()), "")


def _refused(rows: _Rows, first: np.ndarray, numbers: np.ndarray, file: str, now: datetime) -> pa.Table:
    at = np.flatnonzero(first >= 0)
    order = np.argsort(first[at], kind="stable")
    values = [as_text(f.values.filter(pa.array(first == i))) for i, f in enumerate(rows.faults)]
    back = pa.array(np.argsort(order))
    codes = first[at]
    columns = [
        pa.repeat(pa.scalar(file), len(at)),
        pa.array(numbers[at], pa.int64()),
        pa.array([f.rule for f in rows.faults]).take(pa.array(codes)),
        pa.array([f.column for f in rows.faults]).take(pa.array(codes)),
        pa.concat_arrays(values).take(back),
        to_json(rows.table.take(pa.array(at))),
    ]
    return quarantine(columns, now)
