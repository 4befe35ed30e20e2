"""Online feature rows: one packed row per (view, tenant, entity) in SQLite, written only forward in event time.

A replica reads it without importing Feast. A row is one msgpack map, so floats (NaN too), 64-bit integers, booleans,
strings and nulls come back exactly. Readers never wait for a writer (WAL), in this process or another.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from raysaas.use_case import UseCase

Key = tuple[str, str]
Values = dict[str, Any]
Row = tuple[str, str, datetime, Mapping[str, Any]]
Packed = tuple[str, str, str, int, bytes]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICRO = timedelta(microseconds=1)
_CONTEXT = {"row_id", "tenant", "entity", "event_time", "known_at"}
_CREATE = """CREATE TABLE IF NOT EXISTS online (view TEXT, tenant TEXT, entity TEXT, event_time INTEGER NOT NULL,
packed BLOB NOT NULL, PRIMARY KEY (view, tenant, entity)) WITHOUT ROWID"""
_WRITE = """INSERT INTO online VALUES (?, ?, ?, ?, ?) ON CONFLICT (view, tenant, entity) DO UPDATE
SET event_time = excluded.event_time, packed = excluded.packed WHERE excluded.event_time >= event_time"""
_READ = "SELECT event_time, packed FROM online WHERE view = ? AND tenant = ? AND entity = ?"


def online_view(use_case: str, view: str) -> str:
    """Name under which a use case's view is kept, online and in Feast."""
    return f"{use_case}__{view}"


def online_views(use_case: UseCase) -> list[str]:
    """Names of all views of a use case, in the order of its definition."""
    views = list(use_case.views)
    if not views or use_case.examples.lags:
        views.append("row")
    return [online_view(use_case.name, view) for view in views]


class OnlineStore:
    """Packed feature rows in one SQLite file; safe for threads, processes and concurrent writers."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file at ``path``."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._connect().execute(_CREATE)

    def write(self, view: str, rows: pa.Table | Iterable[Row]) -> int:
        """Put rows in one transaction and return how many were offered; an older row never replaces a newer one.

        A table has ``tenant``, ``entity``, ``event_time`` and the features; ``known_at`` and ``row_id`` are left out.
        Of rows with equal event time the last wins, so that a correction does. Other rows are (tenant, entity,
        event_time, values).
        """
        packed = list(_packed_table(view, rows) if isinstance(rows, pa.Table) else _packed_rows(view, rows))
        # In key order the B-tree grows at its end: a third of the time of random order.
        packed.sort(key=itemgetter(1, 2))
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            connection.executemany(_WRITE, packed)
        return len(packed)

    def read(self, view: str, keys: Sequence[Key]) -> list[Values | None]:
        """Feature values of each (tenant, entity), in the order of ``keys``; None where there is no row."""
        return [None if row is None else row[1] for row in self.read_rows(view, keys)]

    def read_many(self, views: Sequence[str], keys: Sequence[Key]) -> list[Values | None]:
        """Values of all ``views`` merged per key; None where no view has the key."""
        merged: list[Values | None] = [None] * len(keys)
        for view in views:
            for position, values in enumerate(self.read(view, keys)):
                if values is not None:
                    merged[position] = {**(merged[position] or {}), **values}
        return merged

    def read_rows(self, view: str, keys: Sequence[Key]) -> list[tuple[datetime, Values] | None]:
        """Event time and values of each (tenant, entity); None where there is no row."""
        connection = self._connect()
        found = (connection.execute(_READ, (view, *key)).fetchone() for key in keys)
        return [row and (_EPOCH + row[0] * _MICRO, msgspec.msgpack.decode(row[1])) for row in found]

    def keys(self, view: str) -> list[Key]:
        """Every (tenant, entity) of a view, sorted."""
        found = self._connect().execute("SELECT tenant, entity FROM online WHERE view = ? ORDER BY 1, 2", (view,))
        return [(tenant, entity) for tenant, entity in found]

    def count(self, view: str) -> int:
        """Number of entities in a view."""
        return int(self._connect().execute("SELECT count(*) FROM online WHERE view = ?", (view,)).fetchone()[0])

    def drop(self, view: str) -> None:
        """Forget all rows of a view."""
        with self._connect() as connection:
            connection.execute("DELETE FROM online WHERE view = ?", (view,))

    def close(self) -> None:
        """Close this thread's connection; another call opens a new one."""
        self._connect().close()
        del self._local.connection

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            self._local.connection = connection
        return connection


def _packed_rows(view: str, rows: Iterable[Row]) -> Iterator[Packed]:
    encode = msgspec.msgpack.Encoder().encode
    for tenant, entity, event_time, values in rows:
        moment = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
        yield view, tenant, entity, (moment - _EPOCH) // _MICRO, encode(values)


def _packed_table(view: str, table: pa.Table) -> Iterator[Packed]:
    encode = msgspec.msgpack.Encoder().encode
    names = [name for name in table.column_names if name not in _CONTEXT]
    micros = table["event_time"].cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
    context = (table[name].to_pylist() for name in ("tenant", "entity"))
    values = zip(*(table[name].to_pylist() for name in names), strict=True) if names else iter([()] * table.num_rows)
    for tenant, entity, micro, row in zip(*context, micros.to_pylist(), values, strict=True):
        yield view, tenant, entity, micro, encode(dict(zip(names, row, strict=True)))
