"""The contract of a source: which rows may enter, and what the platform adds to them. Pure: Arrow in, Arrow out.

Row rules (type, finite, required, min, max, values, pattern, the conditions of ``rules``, future) look at one row; the
rules across rows (references, unique, time_order) look at all rows that passed those. A refused row is recorded once,
under the first rule it broke, columns in the order of the contract; a row that only breaks rules that warn stays. Of
rows with equal unique keys the first stays; a row is out of order when its entity was already seen at a later time.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from raysaas.ingest.across import BEHIND, FOUND, behind, broken, key_columns, keys_of
from raysaas.ingest.binding import bind, date_orders
from raysaas.ingest.casts import connection
from raysaas.ingest.findings import Broken
from raysaas.ingest.platform_columns import add_roles, derive, naive, row_ids
from raysaas.ingest.refused_rows import QUARANTINE, quarantine, take_out, to_json
from raysaas.ingest.row_rules import Rows, check_column, check_conditions, shown
from raysaas.use_case import OnBroken, Source


@dataclass(frozen=True, slots=True)
class Checked:
    """Rows in the platform's types and columns, and refused rows in the schema ``QUARANTINE``.

    ``told`` counts what was only warned of and, with action ``drop``, the ``copies`` of other rows that were dropped.
    """

    accepted: pa.Table
    refused: pa.Table
    told: tuple[Broken, ...] = ()
    copies: int = 0


def check(
    table: pa.Table,
    source: Source,
    *,
    now: datetime,
    row_offset: int = 0,
    file: str = "",
    digest: str = "",
    future_tolerance_s: int = 86_400,
    referenced: Mapping[str, pa.Table] | None = None,
) -> Checked:
    """Split ``table`` (the file's own column names) into rows that keep the whole contract and rows that do not.

    ``row_offset`` rows of the file come before it. ``referenced`` are, for each column of ``references``, the rows that
    it may name: columns ``value`` and, where both sources have one, ``tenant``. Raises InputError when a column of the
    contract is not in the table, ConfigError when the contract contradicts itself.
    """
    digest = digest or hashlib.sha256(file.encode()).hexdigest()
    numbers = np.arange(table.num_rows) + row_offset + 1
    rows = check_rows(
        table, source, now=now, numbers=numbers, file=file, digest=digest, future_tolerance_s=future_tolerance_s,
        day_first=date_orders(source, table),
    )  # fmt: skip
    done = take_out(rows.accepted, _across(rows.accepted, source, referenced or {}), {digest[:16]: file}, now)
    refused = pa.concat_tables([rows.refused, done.refused]).sort_by("row_number")
    return Checked(done.kept, refused, (*rows.told, *done.told), done.copies)


def _across(rows: pa.Table, source: Source, referenced: Mapping[str, pa.Table]) -> pa.Table:
    if not key_columns(source):
        return FOUND.empty_table()
    keys = keys_of(rows, source)
    times = rows["event_time"].cast(pa.int64()).to_numpy()
    with connection() as db:
        db.register("rows", keys.append_column(BEHIND, pa.array(behind(times))))
        for key, values in referenced.items():
            db.register(f"referenced_{key}", values)
        return broken(db, source, referenced={key: "tenant" in one.column_names for key, one in referenced.items()})


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
    rows = Rows(table, source)
    for key, spec in source.columns.items():
        check_column(rows, key, spec, table[names[key]] if key in names else None, (day_first or {}).get(key))
    derive(rows, numbers)
    if source.rules:
        check_conditions(rows, {key: naive(values) for key, values in rows.typed.items()})
    rows.typed["row_id"] = row_ids(digest, numbers)
    add_roles(rows, now, now + timedelta(seconds=future_tolerance_s))
    first = np.full(table.num_rows, -1, np.int32)
    for i, found in enumerate(rows.faults):
        if found.action is not OnBroken.warn:
            first[(first < 0) & found.where] = i
    warned = _warned(rows, first < 0, numbers, file)
    if (first < 0).all():
        return Checked(pa.table(rows.typed), QUARANTINE.empty_table(), warned)
    return Checked(_kept(rows.typed, first < 0), _refused(rows, first, numbers, file, now), warned)


def _kept(typed: Mapping[str, pa.Array], stay: np.ndarray) -> pa.Table:
    """The rows that stay; a column under two names is filtered once."""
    mask = pa.array(stay)
    filtered = {id(values): values.filter(mask) for values in typed.values()}
    return pa.table({name: filtered[id(values)] for name, values in typed.items()})


def _warned(rows: Rows, stay: np.ndarray, numbers: np.ndarray, file: str) -> tuple[Broken, ...]:
    """Rules that only warn, counted over the rows that stay."""
    told = []
    for fault in rows.faults:
        at = np.flatnonzero(fault.where & stay) if fault.action is OnBroken.warn else np.empty(0, np.int64)
        if len(at):
            value = shown(fault, rows.source, pa.table(rows.typed), at[:1])[0].as_py()
            told.append(Broken(fault.rule, fault.column, len(at), value, file, int(numbers[at[0]]), str(OnBroken.warn)))
    return tuple(told)


def _refused(rows: Rows, first: np.ndarray, numbers: np.ndarray, file: str, now: datetime) -> pa.Table:
    at = np.flatnonzero(first >= 0)
    order = np.argsort(first[at], kind="stable")
    typed = pa.table(rows.typed)
    values = [shown(f, rows.source, typed, np.flatnonzero(first == i)) for i, f in enumerate(rows.faults)]
    codes = pa.array(first[at])
    columns = [
        pa.repeat(pa.scalar(file), len(at)),
        pa.array(numbers[at], pa.int64()),
        pa.array([f.rule for f in rows.faults]).take(codes),
        pa.array([f.column for f in rows.faults]).take(codes),
        pa.concat_arrays(values).take(pa.array(np.argsort(order))),
        to_json(rows.table.take(pa.array(at))),
        rows.typed["row_id"].take(pa.array(at)),
    ]
    return quarantine(columns, now)
