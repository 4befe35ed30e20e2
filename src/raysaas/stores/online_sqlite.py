"""Packed feature rows in one SQLite file: a table per view, keyed by entity and tenant.

Readers never wait for a writer (WAL), in this process or another, and see one state of all views: a read is one
statement inside one transaction. A view's name points at a table, so a name can be pointed at another table at once.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

from raysaas.stores.packing import Column, Packed, unpack_all

Key = tuple[str, str]
_CREATE = """
CREATE TABLE IF NOT EXISTS tables (id INTEGER PRIMARY KEY AUTOINCREMENT, names TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS views (name TEXT PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (name TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
"""
# The entity first: with the tenant first, which most rows share, each step of a search compares both.
_TABLE = """CREATE TABLE rows_{} (tenant TEXT NOT NULL, entity TEXT NOT NULL, event_time INTEGER NOT NULL,
packed BLOB NOT NULL, PRIMARY KEY (entity, tenant)) WITHOUT ROWID"""
_WRITE = """INSERT INTO rows_{} VALUES (?, ?, ?, ?) ON CONFLICT (entity, tenant) DO UPDATE
SET event_time = excluded.event_time, packed = excluded.packed WHERE excluded.event_time >= event_time"""
_KEYS_AT_ONCE, _VIEWS_AT_ONCE = 500, 50  # SQLite joins 64 tables at most
_PAGE, _CACHE_KIB = (
    8_192,
    32_768,
)  # the cache is one of pages, per connection: reading one through the system costs as much as the search in it


class SqliteRows:
    """Rows of all views in the file at ``path``; safe for threads, processes and concurrent writers."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file."""
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._local = threading.local()
        self._connect().executescript(_CREATE)

    def extend(self, view: str, names: Sequence[str]) -> tuple[int, list[str]]:
        """Make ``view`` if it is new, add the feature names that it lacks; its number and all names in their order."""
        with self._writing() as connection:
            number, known = self._views(connection).get(view) or self._make(connection, view)
            every = list(dict.fromkeys([*known, *names]))
            if len(every) > len(known):
                connection.execute("UPDATE tables SET names = ? WHERE id = ?", (json.dumps(every), number))
        return number, every

    def put(self, view: str, number: int, rows: Sequence[Packed]) -> bool:
        """Write rows in one transaction, fastest when they are sorted by key; an older row never replaces a newer one.

        False, and nothing is written, when ``view`` has another number by now.
        """
        with self._writing() as connection:
            same = self._views(connection).get(view, (0, []))[0] == number
            if same:
                connection.executemany(_WRITE.format(number), rows)
        return same

    def get(self, views: Sequence[str], keys: Sequence[Key]) -> list[Column]:
        """For each view its feature names, and event time and values of each key's row, None where there is none."""
        columns: list[Column] = []
        with self._reading() as connection:
            known = self._views(connection)
            found = [known.get(view, (0, [])) for view in views]
            for start in range(0, len(found), _VIEWS_AT_ONCE):
                columns += _read(connection, found[start : start + _VIEWS_AT_ONCE], keys)
        return columns

    def keys(self, view: str) -> list[Key]:
        """Every (tenant, entity) of a view, sorted."""
        return [(tenant, entity) for tenant, entity in self._select(view, "tenant, entity", "ORDER BY 1, 2")]

    def count(self, view: str) -> int:
        """Number of rows in a view."""
        return sum(number for (number,) in self._select(view, "count(*)"))

    def drop(self, view: str) -> None:
        """Forget a view's name, and its rows unless another name points at them."""
        with self._writing() as connection:
            self._drop(connection, view)

    def publish(self, pointers: Mapping[str, str], records: Mapping[str, str]) -> None:
        """At once: point each name at the rows of another, which exist, and keep ``records``."""
        with self._writing() as connection:
            for name, target in pointers.items():
                known = self._views(connection)
                connection.execute("INSERT OR REPLACE INTO views VALUES (?, ?)", (name, known[target][0]))
                _drop_unused(connection, known.get(name, (0, []))[0])
            connection.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", list(records.items()))

    def retire(self, views: Sequence[str], records: Sequence[str]) -> None:
        """At once: forget views and records."""
        with self._writing() as connection:
            for view in views:
                self._drop(connection, view)
            connection.executemany("DELETE FROM records WHERE name = ?", [(name,) for name in records])

    def views(self) -> list[str]:
        """Names of all views, sorted."""
        with self._reading() as connection:
            return sorted(self._views(connection))

    def records(self) -> dict[str, str]:
        """Everything that :meth:`publish` keeps."""
        with self._reading() as connection:
            return dict(connection.execute("SELECT name, body FROM records"))

    def forget(self, tenant: str, entity: str | None, prefix: str = "") -> int:
        """Delete the rows of a tenant, or of one of its entities, and overwrite their bytes; returns how many.

        ``prefix`` is how the names of the views begin. Bytes in older pages of the write-ahead log go when no reader
        holds them: see ``PRAGMA wal_checkpoint``.
        """
        connection, count = self._connect(), 0
        connection.execute("PRAGMA secure_delete=ON")
        with self._writing():
            for number in {number for name, (number, _) in self._views(connection).items() if name.startswith(prefix)}:
                query = f"DELETE FROM rows_{number} WHERE tenant = ? AND (? IS NULL OR entity = ?)"
                count += connection.execute(query, (tenant, entity, entity)).rowcount
        connection.execute("PRAGMA secure_delete=OFF")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return count

    def close(self) -> None:
        """Close this thread's connection; another call opens a new one."""
        self._connect().close()
        del self._local.connection

    def _select(self, view: str, what: str, order: str = "") -> list[Any]:
        with self._reading() as connection:
            number, _ = self._views(connection).get(view, (0, []))
            return connection.execute(f"SELECT {what} FROM rows_{number} {order}").fetchall() if number else []

    def _make(self, connection: sqlite3.Connection, view: str) -> tuple[int, list[str]]:
        number = int(connection.execute("INSERT INTO tables (names) VALUES ('[]')").lastrowid or 0)
        connection.execute(_TABLE.format(number))
        connection.execute("INSERT INTO views VALUES (?, ?)", (view, number))
        return number, []

    def _drop(self, connection: sqlite3.Connection, view: str) -> None:
        number, _ = self._views(connection).get(view, (0, []))
        connection.execute("DELETE FROM views WHERE name = ?", (view,))
        _drop_unused(connection, number)

    def _views(self, connection: sqlite3.Connection) -> dict[str, tuple[int, list[str]]]:
        """Table and feature names of each view, as of the transaction that is open."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        # The version tells of others' commits only: this connection's own writes change ``total_changes``.
        stamp = (version, connection.total_changes)
        if self._local.stamp != stamp:
            rows = connection.execute("SELECT name, id, names FROM views JOIN tables USING (id)")
            self._local.known = {name: (number, json.loads(names)) for name, number, names in rows}
            self._local.stamp = stamp
        known: dict[str, tuple[int, list[str]]] = self._local.known
        return known

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        connection.execute("BEGIN")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connect()
        connection.execute("BEGIN IMMEDIATE")
        with connection:
            try:
                yield connection
            except BaseException:
                self._local.stamp = None
                raise

    def _connect(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=30, isolation_level=None, cached_statements=512)
            connection.execute(f"PRAGMA page_size={_PAGE}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            self._local.connection, self._local.stamp = connection, None
        return connection


def _drop_unused(connection: sqlite3.Connection, number: int) -> None:
    if number and not connection.execute("SELECT 1 FROM views WHERE id = ?", (number,)).fetchone():
        connection.execute(f"DROP TABLE rows_{number}")
        connection.execute("DELETE FROM tables WHERE id = ?", (number,))


def _read(connection: sqlite3.Connection, views: Sequence[tuple[int, list[str]]], keys: Sequence[Key]) -> list[Column]:
    """The columns of ``views``, given by table number (0 is none) and feature names."""
    numbers = tuple(number for number, _ in views)
    flat: list[Any] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        rows = connection.execute(_query(numbers, len(some)), [part for key in some for part in key]).fetchall()
        # SQLite answers in the order of the keys, though it does not promise that.
        flat.extend(chain.from_iterable(rows if rows[-1][0] == len(rows) - 1 else sorted(rows)))
    stride = 1 + 2 * len(views)
    return [
        Column(names, flat[1 + 2 * i :: stride], unpack_all(flat[2 + 2 * i :: stride]))
        for i, (_, names) in enumerate(views)
    ]


@lru_cache(maxsize=1024)
def _query(numbers: tuple[int, ...], num_keys: int) -> str:
    fields = "".join(f", t{i}.event_time, t{i}.packed" if n else ", NULL, NULL" for i, n in enumerate(numbers))
    joins = " ".join(
        f"LEFT JOIN rows_{n} t{i} ON t{i}.entity = k.column3 AND t{i}.tenant = k.column2"
        for i, n in enumerate(numbers)
        if n
    )
    places = ",".join([f"({place},?,?)" for place in range(num_keys)])
    return f"SELECT k.column1{fields} FROM (VALUES {places}) k {joins}"
