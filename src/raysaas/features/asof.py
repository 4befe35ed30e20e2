"""Point-in-time joins and window aggregates: Arrow in, Arrow out, DuckDB inside.

Both bring rows of the past to rows that ask, keep the asking rows in their order, and never let one see what happened,
or what became known, after it. A join hands only keys and times to DuckDB and takes values by row number afterwards, so
every Arrow type comes out as it went in.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.grouped import grouped_matches
from raysaas.features.windows import Sweep
from raysaas.view import FUNCTIONS, SINCE, SUMS, aggregate_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)
_FIRST, _LAST = -(2**63) + 1, 2**63 - 1
# While no key is asked for more often, and most a quarter of that, looking at every pair is twice as fast as sorting
# both sides, and needs no memory for the offered one.
_FEW = 16
_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}
_UNITS = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 1}


def asof_join(
    entities: pa.Table,
    features: pa.Table,
    *,
    keys: Sequence[str],
    event_time: str = "event_time",
    known_at: datetime | None = None,
    ttl: timedelta | None = None,
    known_by_event: bool = False,
) -> pa.Table:
    """The entity rows in their order, all kept, plus the feature columns as they stood at each row's ``event_time``.

    The value is that of the feature row with equal ``keys`` and the greatest ``event_time`` not after the entity's, no
    older than ``ttl`` (inclusive); with ``known_at``, only rows whose ``known_at`` is not after it count; with
    ``known_by_event``, only rows known by the entity's own time. Ties go to the latest ``known_at``, then to the last
    row. Null keys and null times match nothing; times without a zone are UTC. Columns of ``features`` named as a key,
    ``event_time`` or ``known_at`` are not repeated. Raises InputError for a missing or a clashing column.
    """
    context = [*keys, event_time, "known_at"]
    values = features.drop_columns([name for name in context if name in features.column_names])
    _check(entities, features, [*keys, event_time], values.column_names)
    unit = _finest(entities[event_time], features[event_time], *_column(features, "known_at"))
    asking, offered = (
        _keyed(_typed(entities, features, keys), keys, event_time, unit),
        _keyed(features, keys, event_time, unit),
    )
    reach = None if ttl is None else min(_span(ttl, unit), _LAST)
    cut = None if known_at is None else _tick(known_at, unit)
    with _engine().cursor() as connection:
        _offer(connection, asking, offered, cut, known_by_event)
        columns = [f"k{position}" for position in range(len(keys))]
        matches = grouped_matches(connection, offered, columns, reach=reach, cut=cut, known_by_event=known_by_event)
        matches = matches or _matches(connection, len(keys), reach, known_by_event)
    at = np.full(entities.num_rows, -1, dtype=np.int64)
    at[matches["asked"]] = matches["found"]
    index = pa.array(at, mask=at < 0)
    for name in values.column_names:
        entities = entities.append_column(values.schema.field(name).with_nullable(True), _taken(values[name], index))
    return entities


def window_aggregates(
    cuts: pa.Table,
    rows: pa.Table,
    *,
    keys: Sequence[str],
    windows: Sequence[timedelta],
    aggregates: Sequence[str],
    event_time: str = "event_time",
    known_at: datetime | None = None,
    known_by_event: bool = False,
) -> pa.Table:
    """The cut rows in their order plus one column per aggregate and window ``(cut - window, cut]`` over ``rows``.

    ``aggregates`` are ``count`` and ``FUNCTION:COLUMN`` (sum, mean, min, max, last, distinct), named ``count_7d`` or
    ``sum_amount_28d``, and ``since_last``, ``since_first``: days since the last and the first row of all history up to
    the cut, named ``since_last_d``. Nulls and NaN are left out; count, sum and distinct of nothing are 0, the others
    null; ``last`` goes by time, then ``known_at``, then row order. ``known_at`` and ``known_by_event`` are as in
    :func:`asof_join`. Sums are exact and rounded once, so that the same rows give the same bits in any order and
    company.
    """
    wanted = [_parse(aggregate) for aggregate in aggregates]
    names = sorted({column for _, column in wanted if column})
    _check(cuts, rows, [*keys, event_time], aggregate_names(windows, aggregates), {*keys, event_time, *names})
    _check_numeric(rows, wanted)
    asking, offered = _keyed(_typed(cuts, rows, keys), keys, event_time, "us"), _keyed(rows, keys, event_time, "us")
    values = {name: _without_nan(_stored(rows[name])) for name in names}
    with _engine().cursor() as connection:
        _offer(connection, asking, offered, None if known_at is None else _tick(known_at, "us"), known_by_event)
        sweep = Sweep(connection, len(keys), [_span(window, "us") for window in windows], known_by_event)
        for function, column in wanted:
            for window in windows if function not in SINCE else [_DAY]:
                found = sweep.column(function, values.get(column), _span(window, "us"))
                cuts = cuts.append_column(_named(function, column, window), found)
    return cuts


def aggregate_names(windows: Sequence[timedelta], aggregates: Sequence[str]) -> list[str]:
    """Names of the columns that :func:`window_aggregates` adds, in their order."""
    wanted = [_parse(aggregate) for aggregate in aggregates]
    return [_named(*item, window) for item in wanted for window in (windows if item[0] not in SINCE else [_DAY])]


@cache
def _engine() -> duckdb.DuckDBPyConnection:
    """One DuckDB per process: a cursor of it is free, opening one costs 30 ms."""
    return duckdb.connect()


def _check(
    asking: pa.Table, offered: pa.Table, shared: Sequence[str], added: Sequence[str], needed: set[str] | None = None
) -> None:
    for side, table, columns in (("asking", asking, set(shared)), ("offered", offered, needed or set(shared))):
        missing = sorted(columns - set(table.column_names))
        if missing:
            raise InputError(f"the {side} table lacks the columns {missing}: it has {table.column_names}.")
    clash = sorted(set(asking.column_names) & set(added))
    if clash:
        raise InputError(f"columns {clash} are on both sides of the join: rename them on one side.")
    for name in shared:
        known = asking[name].null_count < asking.num_rows
        if known and _is_text(_plain(asking, name)) != _is_text(_plain(offered, name)):
            raise InputError(f"column {name!r} is text on one side of the join only: cast it so that both sides agree.")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _plain(table: pa.Table, name: str) -> pa.DataType:
    kind = table.schema.field(name).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _check_numeric(rows: pa.Table, wanted: Sequence[tuple[str, str]]) -> None:
    for function, column in wanted:
        kind = rows.schema.field(column).type if function in SUMS else pa.float64()
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"aggregate '{function}:{column}' needs numbers, column {column!r} holds {kind}.")


def _column(table: pa.Table, name: str) -> list[pa.ChunkedArray]:
    return [table[name]] if name in table.column_names else []


def _taken(column: pa.ChunkedArray, index: pa.Array) -> pa.ChunkedArray:
    """Values by row number; Arrow has no such kernel for views of text and bytes."""
    stored = _VIEWS.get(column.type)
    return column.take(index) if stored is None else column.cast(stored).take(index).cast(column.type)


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves, where a column holds numbers or views of them."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else _VIEWS.get(column.type)
    return column if kind is None else column.cast(kind)


def _finest(*columns: pa.ChunkedArray) -> str:
    order = list(_UNITS)
    return max((column.type.unit if pa.types.is_timestamp(column.type) else "s" for column in columns), key=order.index)


def _ticks(column: pa.ChunkedArray, unit: str) -> pa.ChunkedArray:
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise InputError(f"a time column holds {kind}: expected timestamps or dates.")
    zone = kind.tz if pa.types.is_timestamp(kind) else None
    return pc.cast(pc.cast(column, pa.timestamp(unit, zone), safe=unit != "us"), pa.int64())


def _span(span: timedelta, unit: str) -> int:
    micros = span // timedelta(microseconds=1)
    return micros * 1000 if unit == "ns" else micros // _UNITS[unit]


def _tick(moment: datetime, unit: str) -> int:
    return _span((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH, unit)


def _typed(asking: pa.Table, offered: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Keys without any value, whose type means nothing (pandas has none for them), in the type of the other side."""
    for position, name in enumerate(asking.column_names):
        if name in keys and asking[name].null_count == asking.num_rows:
            nulls = pa.nulls(asking.num_rows, _plain(offered, name))
            asking = asking.set_column(position, name, nulls)
    return asking


def _keyed(table: pa.Table, keys: Sequence[str], event_time: str, unit: str) -> pa.Table:
    columns = {f"k{position}": table[key] for position, key in enumerate(keys)}
    columns["t"] = _ticks(table[event_time], unit)
    for known in _column(table, "known_at"):
        columns["known"] = _ticks(known, unit)
    columns["i"] = pa.chunked_array([np.arange(table.num_rows, dtype=np.int64)])
    return pa.table(columns)


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _offer(
    connection: duckdb.DuckDBPyConnection, asking: pa.Table, offered: pa.Table, cut: int | None, known_by_event: bool
) -> None:
    """Create the views ``a`` (rows that ask) and ``o`` (rows that may answer); an unknown ``known`` sorts first."""
    known = "known" in offered.column_names
    if (cut is not None or known_by_event) and not known:
        raise InputError("a known-at cut needs a column 'known_at' in the features: it has none.")
    connection.register("asking", asking.drop_columns(["known"] if "known" in asking.column_names else []))
    connection.register("offered", offered)
    where = [
        "t IS NOT NULL",
        *([f"known <= {cut}"] if cut is not None else []),
        *(["known IS NOT NULL"] if known_by_event else []),
    ]
    replace = "* REPLACE (coalesce(known, -9223372036854775808) AS known)" if known else "*, 0::BIGINT AS known"
    connection.execute("CREATE TEMP VIEW a AS SELECT * FROM asking WHERE t IS NOT NULL")
    connection.execute(f"CREATE TEMP VIEW o AS SELECT {replace} FROM offered WHERE {' AND '.join(where)}")


def _equal(num_keys: int) -> str:
    return "".join(f"a.k{position} = o.k{position} AND " for position in range(num_keys))


def _matches(
    connection: duckdb.DuckDBPyConnection, num_keys: int, reach: int | None, known_by_event: bool
) -> dict[str, np.ndarray]:
    """Rows (asked, found) of the views ``a`` and ``o``, by the way that is faster for how often keys are asked for."""
    keys = ", ".join(f"k{position}" for position in range(num_keys))
    counts = f"SELECT count(*) AS n FROM a GROUP BY {keys}"
    often = f"SELECT coalesce(max(n), 0), coalesce(sum(n * n) / sum(n), 0) FROM ({counts})"
    most, usual = connection.sql(often).fetchall()[0]
    sql = _hash_sql if most <= _FEW and usual <= _FEW / 4 else _sorted_sql
    return dict(connection.sql(sql(num_keys, reach, known_by_event)).fetchnumpy())


def _since(reach: int | None) -> str:
    """The earliest time that still answers ``a.t``; times near the first of all must not overflow."""
    return f"(greatest(a.t, {_FIRST + (reach or 0)}) - {reach})"


def _hash_sql(num_keys: int, reach: int | None, known_by_event: bool) -> str:
    """Every visible pair, then the best of each asking row: linear while no key is asked for many times."""
    alive = "" if reach is None else f" AND o.t >= {_since(reach)}"
    known = " AND o.known <= a.t" if known_by_event else ""
    return (
        "SELECT a.i AS asked, arg_max(o.i, row(o.t, o.known, o.i)) AS found FROM a JOIN o "
        f"ON {_equal(num_keys)}o.t <= a.t{alive}{known} GROUP BY a.i"
    )


def _sorted_sql(num_keys: int, reach: int | None, known_by_event: bool) -> str:
    """ASOF sorts both sides once. The order of times and of ties is one comparison of (time, known, row)."""
    keys = "".join(f"k{position}, " for position in range(num_keys))
    ontime = " WHERE known <= t" if known_by_event else ""
    best = (
        f"SELECT a.i AS asked, o.i AS found, o.rank AS rank, a.t AS t FROM a ASOF JOIN "
        f"(SELECT {keys}t, i, row(t, known, i) AS rank FROM o{ontime}) o "
        f"ON {_equal(num_keys)}row(a.t, {_LAST}, {_LAST}) >= o.rank"
    )
    if known_by_event:
        # ASOF takes one inequality: rows that became known after they happened need a second one.
        best = (
            f"SELECT asked, arg_max(found, rank) AS found, max(rank) AS rank, any_value(t) AS t FROM ({best} "
            f"UNION ALL SELECT a.i, o.i, row(o.t, o.known, o.i), a.t FROM a JOIN (SELECT * FROM o WHERE known > t) o "
            f"ON {_equal(num_keys)}o.known <= a.t) GROUP BY asked"
        )
    alive = "" if reach is None else f" WHERE a.rank[1] >= {_since(reach)}"
    return f"SELECT asked, found FROM ({best}) a{alive}"


def _parse(aggregate: str) -> tuple[str, str]:
    function, _, column = aggregate.partition(":")
    if function in FUNCTIONS if column else function in ("count", *SINCE):
        return function, column
    raise InputError(
        f"aggregate {aggregate!r} is unknown: expected count, since_last, since_first or FUNCTION:COLUMN with "
        f"FUNCTION one of {', '.join(FUNCTIONS)}."
    )


def _named(function: str, column: str, window: timedelta) -> str:
    return aggregate_name(f"{function}:{column}" if column else function, window / _DAY)
