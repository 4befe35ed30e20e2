"""Online feature rows: one packed row per (view, tenant, entity), written only forward in event time.

A replica reads them without importing Feast. They are kept in a SQLite file or in Redis, by ``storage.online_url``;
both do the same, and one contract suite says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial, reduce
from operator import add
from pathlib import Path
from time import time
from typing import Any, Protocol

import pyarrow as pa

from raysaas.errors import Unavailable
from raysaas.stores.packing import Column, Packed, Row, packed, value_names
from raysaas.use_case import UseCase

__all__ = ["Key", "OnlineStore", "Row", "Values", "online_ttls", "online_view", "online_views"]

Key = tuple[str, str]
Values = dict[str, Any]
_WRITE_TRIES = 5


def online_view(use_case: str, view: str) -> str:
    """Name under which a use case's view is kept, online and in Feast."""
    return f"{use_case}__{view}"


def online_views(use_case: UseCase) -> list[str]:
    """Names of all views of a use case, in the order of its definition."""
    views = list(use_case.views)
    if not views or use_case.examples.lags:
        views.append("row")
    return [online_view(use_case.name, view) for view in views]


def online_ttls(use_case: UseCase) -> dict[str, float]:
    """Seconds after which a row of a view counts as absent, for the views that say so."""
    ttls = {name: view.ttl_days for name, view in use_case.views.items()}
    day = timedelta(days=1).total_seconds()
    return {online_view(use_case.name, name): days * day for name, days in ttls.items() if days is not None}


class Rows(Protocol):
    """What a backend does; the methods say it in :mod:`raysaas.stores.online_sqlite`."""

    def extend(self, view: str, names: Sequence[str]) -> tuple[int, list[str]]: ...

    def put(self, view: str, number: int, rows: Sequence[Packed]) -> bool: ...

    def get(self, views: Sequence[str], keys: Sequence[Key]) -> list[Column]: ...

    def keys(self, view: str) -> list[Key]: ...

    def count(self, view: str) -> int: ...

    def drop(self, view: str) -> None: ...

    def publish(self, pointers: Mapping[str, str], records: Mapping[str, str]) -> None: ...

    def retire(self, views: Sequence[str], records: Sequence[str]) -> None: ...

    def views(self) -> list[str]: ...

    def records(self) -> dict[str, str]: ...

    def forget(self, tenant: str, entity: str | None, prefix: str = "") -> int: ...

    def close(self) -> None: ...


class OnlineStore:
    """Packed feature rows; safe for threads, processes and concurrent writers.

    Every call raises ``Unavailable`` while the server, if there is one, does not answer.
    """

    def __init__(self, location: str | Path) -> None:
        """``location`` is a path, ``sqlite:///PATH``, ``redis://...`` or ``rediss://...`` (TLS)."""
        self.rows = _backend(str(location))

    def write(self, view: str, rows: pa.Table | Iterable[Row]) -> int:
        """Put rows and return how many were offered; an older row never replaces a newer one.

        A table has ``tenant``, ``entity``, ``event_time`` and the features; ``known_at`` and ``row_id`` are left out.
        Of rows with equal event time the last wins, so that a correction does. Other rows are (tenant, entity,
        event_time, values). Values are null, bool, int (64 bits), float, str, bytes, datetime or lists of these; for
        another type TypeError is raised and nothing is written.
        """
        offered = rows if isinstance(rows, pa.Table) else list(rows)
        for _ in range(_WRITE_TRIES):
            number, names = self.rows.extend(view, value_names(offered))
            ready = packed(offered, names)
            if self.rows.put(view, number, ready):
                return len(ready)
        raise Unavailable(f"The online view {view!r} is being dropped and made again by others. Try again.")

    def read(self, view: str, keys: Sequence[Key]) -> list[Values | None]:
        """Feature values of each (tenant, entity), in the order of ``keys``; None where there is no row."""
        return self.read_many([view], keys)

    def read_many(
        self, views: Sequence[str], keys: Sequence[Key], *, ttls_s: Mapping[str, float] | None = None
    ) -> list[Values | None]:
        """Values of all ``views`` merged per key; None where no view has a row of it. TTLs as in :meth:`read_dated`."""
        columns = self._fresh(views, keys, ttls_s or {}, time())
        if (whole := _all_there(columns)) is not None:
            return [*whole]
        return [_merged(columns, n) if any(c.times[n] is not None for c in columns) else None for n in range(len(keys))]

    def read_dated(
        self,
        views: Sequence[str],
        keys: Sequence[Key],
        *,
        ttls_s: Mapping[str, float] | None = None,
        now: float | None = None,
    ) -> list[tuple[Values, dict[str, int]]]:
        """Per key: the values of all ``views`` merged, and the event time (microseconds) of each view's row.

        All views are read in one state of the store. A row older at ``now`` (seconds, the present by default) than its
        view's entry in ``ttls_s`` is left out.
        """
        columns = self._fresh(views, keys, ttls_s or {}, time() if now is None else now)
        merged = _all_there(columns) or [_merged(columns, n) for n in range(len(keys))]
        times = [
            {view: moment for view, moment in zip(views, moments, strict=True) if moment is not None}
            for moments in zip(*(column.times for column in columns), strict=True)
        ]
        return list(zip(merged, times, strict=True))

    def _fresh(
        self, views: Sequence[str], keys: Sequence[Key], ttls_s: Mapping[str, float], now: float
    ) -> list[Column]:
        """The columns of a read, without the rows that are past their view's TTL."""
        columns = self.rows.get(views, keys)
        floors = [int((now - ttls_s[view]) * 1e6) if view in ttls_s else None for view in views]
        return [
            column if floor is None else _since(column, floor) for column, floor in zip(columns, floors, strict=True)
        ]

    def keys(self, view: str) -> list[Key]:
        """Every (tenant, entity) of a view, sorted."""
        return self.rows.keys(view)

    def count(self, view: str) -> int:
        """Number of entities in a view."""
        return self.rows.count(view)

    def drop(self, view: str) -> None:
        """Forget a view; its rows stay where another name points at them (:mod:`raysaas.stores.generations`)."""
        self.rows.drop(view)

    def forget(self, tenant: str, entity: str | None = None, *, use_case: str | None = None) -> int:
        """Erase the rows of a tenant, or of one of its entities, from all views (of a use case); returns how many."""
        return self.rows.forget(tenant, entity, online_view(use_case, "") if use_case else "")

    def close(self) -> None:
        """Close this thread's connections; another call opens new ones."""
        self.rows.close()


def _since(column: Column, floor: int) -> Column:
    # Absent rows are ruled out first, here and below, which the type checker cannot follow through a container.
    if column.times and None not in column.times and min(column.times) >= floor:  # type: ignore[type-var, operator]
        return column
    kept = [moment is not None and moment >= floor for moment in column.times]
    times = [moment if keep else None for moment, keep in zip(column.times, kept, strict=True)]
    return Column(column.names, times, [x if keep else None for x, keep in zip(column.values, kept, strict=True)])


def _all_there(columns: Sequence[Column]) -> list[Values] | None:
    """The merged values, several times faster, where no row and no value at its end is absent; else None."""
    if not columns or any(None in column.times or not column.times for column in columns):
        return None
    if any(min(map(len, column.values)) < len(column.names) for column in columns):  # type: ignore[arg-type]
        return None
    names = [name for column in columns for name in column.names]
    rows: Iterable[Any] = reduce(partial(map, add), [column.values for column in columns])
    empty: Values = dict.fromkeys(names)
    return [_filled(empty, names, row) for row in rows]


def _filled(empty: Values, names: Sequence[str], row: Sequence[Any]) -> Values:
    # A copy has the room that a new dictionary would have to grow into again and again: half the time.
    values = empty.copy()
    values.update(zip(names, row, strict=True))
    return values


def _merged(columns: Sequence[Column], place: int) -> Values:
    values: Values = {}
    for column in columns:
        # A row may be shorter than the names, which only grow.
        values.update(zip(column.names, column.values[place] or (), strict=False))
    return values


def _backend(location: str) -> Rows:
    if location.startswith(("redis://", "rediss://")):
        from raysaas.stores.online_redis import RedisRows

        return RedisRows(location)
    from raysaas.stores.online_sqlite import SqliteRows

    return SqliteRows(location.removeprefix("sqlite:///"))
