"""Feature rows of each view of a use case: columns of a source as they are, or window aggregates at the times asked
for.

``rows`` use cases without views have one view, ``row``: the example's own columns and their lags. What a row says of
itself is known when it happens; what a view says of the past is known from ``known_at`` on.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.asof import asof_join, window_aggregates
from raysaas.features.definitions import CONTEXT, KEYS
from raysaas.features.derived import lagged, made
from raysaas.features.fanout import Offered, partitioned
from raysaas.features.known_rows import KnownRows
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
    for name in view_names(use_case):
        if is_windowed(use_case, name):
            yield name, window_rows(use_case, name, raw, asks)
        else:
            made_of, make = row_maker(use_case, name, raw)
            yield name, make(made_of.read())


def view_names(use_case: UseCase) -> list[str]:
    """All views in their order, the examples' own among them."""
    examples = use_case.examples
    own = examples.kind is ExampleKind.rows and (not use_case.views or examples.lags)
    return [*use_case.views, *([ROW] if own else [])]


def is_windowed(use_case: UseCase, name: str) -> bool:
    """Whether a view's rows are made for the times that are asked for; else each is made of a row of its source."""
    return name in use_case.views and bool(use_case.views[name].aggregates)


def window_rows(use_case: UseCase, name: str, raw: Raw, asks: pa.Table) -> pa.Table:
    """A row of window aggregates for each entity and time among ``asks``."""
    _check_columns(use_case, name, raw)
    return _named(use_case, name, made(_windows(use_case.views[name], raw, asks), use_case.views[name], name))


def row_maker(use_case: UseCase, name: str, raw: Raw) -> tuple[KnownRows, Callable[[pa.Table], pa.Table]]:
    """What a view is made of whose rows are made of those of its source, and what makes them: of all rows, or of all
    those of some entities, which lie in order."""
    if name not in use_case.views:
        return raw.rows(use_case.examples.source), partial(_own, use_case)
    _check_columns(use_case, name, raw)
    view = use_case.views[name]
    return raw.rows(view.source).only([*CONTEXT, *view.inputs()]), partial(_view_columns, use_case, name)


def _own(use_case: UseCase, table: pa.Table) -> pa.Table:
    """The view ``row``: columns of the example's source, lags, at times that tell rows of one entity apart.

    The label is left out unless it is taken from a later row: then its value now is known, and the strongest feature.
    """
    examples = use_case.examples
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
    used = dict.fromkeys([*CONTEXT, *columns, *examples.lags])
    return sql(
        f"SELECT row_id, tenant, entity, event_time, rows.event_time AS known_at {selected} FROM rows "
        f"WINDOW w AS (PARTITION BY tenant, entity ORDER BY event_time) ORDER BY tenant, entity, event_time",
        rows=apart(table.select(list(used))),
    )


def apart(table: pa.Table) -> pa.Table:
    """``table`` with event times of one entity made distinct: equal ones move on by microseconds, in row order."""
    return sql(
        "SELECT * EXCLUDE (__n) REPLACE (max(event_time - __n) OVER w + __n AS event_time) FROM "
        "(SELECT *, row_number() OVER w AS __n FROM rows "
        "WINDOW w AS (PARTITION BY tenant, entity ORDER BY event_time, row_id)) "
        "WINDOW w AS (PARTITION BY tenant, entity ORDER BY __n) ORDER BY tenant, entity, event_time",
        rows=table,
    )


def latest_rows(
    rows: pa.Table | Offered,
    entities: pa.Table,
    at: datetime,
    ttl: timedelta | None = None,
    features: Features | None = None,
) -> pa.Table:
    """Each entity's newest feature row that happened and was known by ``at``: ``tenant, entity, event_time``,
    features."""
    moment, how = pa.array([at] * entities.num_rows, pa.timestamp("us", "UTC")), features or Features()
    asks = entities.select(KEYS).append_column("event_time", moment)
    join, most = partial(_dated, ttl), how.rows_per_partition
    found = partitioned(join, asks, rows, keys=KEYS, partitions=how.partitions, max_rows=most)
    found = found.filter(pc.is_valid(found[_AT]))
    return found.drop_columns(["event_time"]).rename_columns({_AT: "event_time"})


def _dated(ttl: timedelta | None, asks: pa.Table, rows: pa.Table) -> pa.Table:
    """``asks`` with the newest rows, whose event time is a column too."""
    rows = rows.drop_columns([name for name in ("row_id",) if name in rows.column_names])
    return asof_join(asks, rows.append_column(_AT, rows["event_time"]), keys=KEYS, ttl=ttl, known_by_event=True)


def schema_of(rows: pa.Table | pa.Schema) -> pa.Schema:
    """The features among the columns of ``rows``."""
    return pa.schema([field for field in getattr(rows, "schema", rows) if field.name not in CONTEXT])


def _windows_of(view: View) -> list[timedelta]:
    return [timedelta(days=days) for days in view.windows_days]


def _check_columns(use_case: UseCase, name: str, raw: Raw) -> None:
    """A source that declares no columns is known only now."""
    view = use_case.views[name]
    there = raw.schema(view.source).names
    missing = sorted(set(view.inputs()) - set(there))
    if missing:
        raise InputError(f"use_case.views.{name} names {missing}: source {view.source!r} has {there}.")


def _named(use_case: UseCase, name: str, rows: pa.Table) -> pa.Table:
    """``rows`` with the features' names, which differ from the columns' where views would clash."""
    names = feature_names(use_case)[name]
    return rows.rename_columns({old: new for old, new in names.items() if old in rows.column_names})


def _view_columns(use_case: UseCase, name: str, rows: pa.Table) -> pa.Table:
    view = use_case.views[name]
    rows = lagged(rows, view.columns, view.lags) if view.lags else rows.select([*CONTEXT, *view.columns])
    return _named(use_case, name, made(rows, view, name))


def _windows(view: View, raw: Raw, asks: pa.Table) -> pa.Table:
    cuts = asks.select([*KEYS, "event_time"]).group_by([*KEYS, "event_time"], use_threads=False).aggregate([])
    join = partial(
        window_aggregates, keys=KEYS, windows=_windows_of(view), aggregates=view.aggregates, known_by_event=True
    )
    # Only the last of several equal times is told apart by its row.
    order = ["row_id"] if any(item.startswith("last:") for item in view.aggregates) else []
    used = [*KEYS, "event_time", "known_at", *sorted({item.partition(":")[2] for item in view.aggregates} - {""})]
    joined = raw.rows(view.source).only([*used, *order]).joined(join, cuts)
    return joined.add_column(3, "known_at", joined["event_time"])
