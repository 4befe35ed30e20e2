"""Columns that the platform adds to a source's own: derived ones, the row id, tenant, entity and times. Pure."""

from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import ConfigError
from raysaas.ingest.binding import ROLES, bind
from raysaas.ingest.casts import TIME, as_text, cast, connection, flat, mask
from raysaas.ingest.row_rules import Rows
from raysaas.stores.journal import KNOWN_AT, TENANT
from raysaas.use_case import ColumnType, OnBroken


def derive(rows: Rows, numbers: np.ndarray) -> None:
    """Add the derived columns. DuckDB sees times as plain UTC timestamps; where an expression fails, it gives null."""
    source = rows.source
    if not source.derive:
        return
    columns = {key: naive(values) for key, values in rows.typed.items()}
    others = bind(source, rows.table.column_names).ignored
    columns |= {key: naive(flat(rows.table[name])) for key, name in others.items() if key not in columns}
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


def naive(values: pa.Array) -> pa.Array:
    """Times as plain UTC timestamps, anything else as it is."""
    return values.cast(pa.timestamp("us")) if pa.types.is_timestamp(values.type) else values


def _platform(values: pa.Array) -> pa.Array:
    """A DuckDB result in one of the platform's types."""
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return cast(pa.chunked_array([values]), ColumnType.time).values
    if pa.types.is_boolean(values.type) or pa.types.is_string(values.type):
        return values
    kind = ColumnType.integer if pa.types.is_integer(values.type) else ColumnType.number
    return cast(pa.chunked_array([values]), kind).values


def add_roles(rows: Rows, now: datetime, latest: datetime) -> None:
    """Make the columns ``tenant``, ``entity``, ``event_time`` and ``known_at``; a row that lacks one is refused."""
    made: dict[str, pa.Array] = {}
    for role, setting in ROLES.items():
        key = getattr(rows.source, setting)
        if key is None:
            continue
        values = as_text(rows.typed[key]) if role in ("tenant", "entity") else rows.typed[key]
        if pa.types.is_timestamp(values.type) != (role in ("event_time", "known_at")):
            raise ConfigError(
                f"use_case.sources.<source>.{setting}={key!r} names a column of {values.type}: expected type time. "
                "Declare the column as time, or derive one."
            )
        made[role] = values
        _require(rows, key, values)
        if pa.types.is_timestamp(values.type):
            rows.fault("future", key, mask(pc.greater(values, pa.scalar(latest, TIME))), values)
    _add_sent(rows, made)
    num_rows = rows.table.num_rows
    made.setdefault("entity", rows.typed["row_id"])
    made.setdefault("tenant", pa.repeat(pa.scalar("default"), num_rows))
    made.setdefault("event_time", pa.repeat(pa.scalar(now, TIME), num_rows))
    made.setdefault("known_at", made["event_time"])
    rows.typed |= {role: made[role] for role in ROLES}


def _add_sent(rows: Rows, made: dict[str, pa.Array]) -> None:
    """Of events that were sent in: the tenant is the key's, whatever the contract says; known since they came."""
    if TENANT not in rows.table.column_names:
        return
    made["tenant"] = flat(rows.table[TENANT])
    made.setdefault("known_at", cast(rows.table[KNOWN_AT], ColumnType.time).values)
    made.setdefault("event_time", made["known_at"])


def _require(rows: Rows, key: str, values: pa.Array) -> None:
    if values.null_count:
        chosen = rows.source.on_broken.get(f"{key}.required") or rows.source.on_broken.get("required")
        does = OnBroken.refuse_batch if chosen is OnBroken.refuse_batch else OnBroken.refuse_row
        rows.fault("required", key, mask(pc.is_null(values)) & ~rows.refused_for(key), values, does)


def row_ids(digest: str, numbers: np.ndarray) -> pa.Array:
    """Ids that a row keeps for good: the file's digest and the row's number in it."""
    prefix = pa.scalar(f"{digest[:16]}-")
    return pc.binary_join_element_wise(prefix, pa.array(numbers, pa.int64()).cast(pa.string()), "")
