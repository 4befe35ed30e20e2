"""Feature rows of each view of a use case: columns of a source as they are, or window aggregates at the times asked
for.

``rows`` use cases without views have one view, ``row``: the example's own columns and their lags. What a row says of
itself is known when it happens; what a view says of the past is known from ``known_at`` on.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.asof import asof_join, window_aggregates
from raysaas.features.definitions import CONTEXT, KEYS
from raysaas.features.derived import lagged, made
from raysaas.features.fanout import partitioned
from raysaas.features.raw import Raw, sql, value_columns
from raysaas.settings import Features
from raysaas.use_case import ExampleKind, UseCase
from raysaas.view import View, lag_name

ROW = "row"
_AT = "__at"


def feature_names(use_case: UseCase) -> dict[str, dict[str, str]]:
    """For each view of conf: its own column names and, of each, the feature's name, with the view's in front on a
    clash."""
    own = {name: view.features() for name, view in use_case.views.items()}
    clashes = {
        name for name, count in Counter(column for names in own.values() for column in names).items() if count > 1
    }
    return {
        view: {column: f"{view}_{column}" if column in clashes else column for column in names}
        for view, names in own.items()
    }


def view_rows(use_case: UseCase, raw: Raw, asks: pa.Table, features: Features) -> Iterator[tuple[str, pa.Table]]:
    """Name and rows of each view, enough to answer ``asks`` (``tenant``, ``entity``, ``event_time``).

    Rows hold ``row_id`` (of column views), ``tenant``, ``entity``, ``event_time``, ``known_at`` and the features.
    """
    names = feature_names(use_case)
    for name, view in use_case.views.items():
        _check_columns(name, view, raw.read(view.source))
        rows = _windows(view, raw, asks, features) if view.aggregates else _columns(view, raw)
        rows = made(rows, view, name)
        yield name, rows.rename_columns({old: new for old, new in names[name].items() if old in rows.column_names})
    examples = use_case.examples
    if examples.kind is ExampleKind.rows and (not use_case.views or examples.lags):
        yield ROW, own_rows(use_case, raw)


def own_rows(use_case: UseCase, raw: Raw) -> pa.Table:
    """The view ``row``: columns of the example's source, lags, at times that tell rows of one entity apart.

    The label is left out unless it is taken from a later row: then its value now is known, and the strongest feature.
    """
    examples, table = use_case.examples, raw.read(use_case.examples.source)
    hidden = {examples.label} if examples.lead == 0 else set()
    columns = (
        []
        if use_case.views
        else [name for name in value_columns(use_case, examples.source, table.schema) if name not in hidden]
    )
    lags = [
        f'CASE WHEN lag(rows.known_at, {back}) OVER w <= event_time THEN lag("{column}", {back}) OVER w END '
        f'AS "{lag_name(column, back)}"'
        for column, all_back in examples.lags.items()
        for back in all_back
    ]
    selected = "".join(f", {column}" for column in [*(f'"{name}"' for name in columns), *lags])
    return sql(
        f"SELECT row_id, tenant, entity, event_time, rows.event_time AS known_at {selected} FROM rows "
        f"WINDOW w AS (PARTITION BY tenant, entity ORDER BY event_time) ORDER BY tenant, entity, event_time",
        rows=apart(table),
    )


def apart(table: pa.Table) -> pa.Table:
    """``table`` with event times of one entity made distinct: equal ones move on by microseconds, in row order."""
    return sql(
        "SELECT * EXCLUDE (n) REPLACE (max(event_time - n) OVER w + n AS event_time) FROM "
        "(SELECT *, row_number() OVER w AS n FROM rows "
        "WINDOW w AS (PARTITION BY tenant, entity ORDER BY event_time, row_id)) "
        "WINDOW w AS (PARTITION BY tenant, entity ORDER BY n) ORDER BY tenant, entity, event_time",
        rows=table,
    )


def latest_rows(rows: pa.Table, entities: pa.Table, at: datetime, ttl: timedelta | None = None) -> pa.Table:
    """Each entity's newest feature row that happened and was known by ``at``: ``tenant, entity, event_time``,
    features."""
    moment = pa.array([at] * entities.num_rows, pa.timestamp("us", "UTC"))
    rows = rows.drop_columns([name for name in ("row_id",) if name in rows.column_names]).append_column(
        _AT, rows["event_time"]
    )
    asks = entities.select(KEYS).append_column("event_time", moment)
    found = asof_join(asks, rows, keys=KEYS, ttl=ttl, known_by_event=True)
    found = found.filter(pc.is_valid(found[_AT]))
    return found.drop_columns(["event_time"]).rename_columns({_AT: "event_time"})


def schema_of(rows: pa.Table) -> pa.Schema:
    """The features among the columns of ``rows``."""
    return pa.schema([field for field in rows.schema if field.name not in CONTEXT])


def _windows_of(view: View) -> list[timedelta]:
    return [timedelta(days=days) for days in view.windows_days]


def _check_columns(name: str, view: View, table: pa.Table) -> None:
    """A source that declares no columns is known only now."""
    missing = sorted(set(view.inputs()) - set(table.column_names))
    if missing:
        raise InputError(f"use_case.views.{name} names {missing}: source {view.source!r} has {table.column_names}.")


def _columns(view: View, raw: Raw) -> pa.Table:
    rows = raw.read(view.source)
    return lagged(rows, view.columns, view.lags) if view.lags else rows.select([*CONTEXT, *view.columns])


def _windows(view: View, raw: Raw, asks: pa.Table, features: Features) -> pa.Table:
    cuts = asks.select([*KEYS, "event_time"]).group_by([*KEYS, "event_time"], use_threads=False).aggregate([])
    join = partial(
        window_aggregates, keys=KEYS, windows=_windows_of(view), aggregates=view.aggregates, known_by_event=True
    )
    rows = raw.read(view.source)
    used = [*KEYS, "event_time", "known_at", *sorted({item.partition(":")[2] for item in view.aggregates} - {""})]
    joined = partitioned(
        join,
        cuts,
        rows.select(dict.fromkeys(used)),
        keys=KEYS,
        partitions=features.partitions,
        max_rows=features.rows_per_partition,
    )
    return joined.add_column(3, "known_at", joined["event_time"])
