"""Rows of a database as an extract: read once over a server-side cursor, a batch at a time, into Parquet files.

With a watermark a run reads what is new since the last commit (``watermark.py``); without one it reads all, and equal
content is nothing new. A row whose transaction commits after the reader has passed its watermark is read only if
``sql.lag`` reaches back that far; an updated row is a new row. Rows without a watermark are never read, and a warning
says how many there are. PostgreSQL and SQLite are tested; any other database goes by SQLAlchemy's URL.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from sqlalchemy import Connection, CursorResult, bindparam, create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import NullType

from raysaas.errors import ConfigError, InputError, RaysaasError, Unavailable
from raysaas.ingest.formats import SourceFile
from raysaas.ingest.inbox import Extract, Inbox
from raysaas.ingest.sources import describe
from raysaas.ingest.sqltypes import to_table
from raysaas.ingest.watermark import Digest, Offset, Progress, row_hash
from raysaas.use_case import Format, Sql

OFFSET = "raysaas.offset"
_MAX_INLINE = 100  # hashes of an offset that a snapshot's properties hold; more of them lie in a file
# Classes of SQLSTATE: connection lost, out of resources, shutting down.
_TRANSIENT = ("08", "53", "57")
_CONNECT_S = 10


@dataclass(frozen=True, slots=True)
class Database:
    """What a source reads: ``where`` is the setting that messages name, ``offsets`` a folder for large offsets."""

    sql: Sql
    where: str
    inbox: Inbox
    offsets: Inbox

    def extract(self, before: str | None) -> Extract:
        """Read the rows that no commit has yet; ``before`` is the offset of the last one.

        Raises Unavailable (the server does not answer), ConfigError (it does, and refuses the query or an unknown
        column), InputError (no such SQLite file).
        """
        sql = self.sql
        basis = json.dumps([sql.table, sql.query, sql.watermark, sql.lag, before])
        found = self.inbox.waiting()
        if found is not None and found.basis == basis:
            return found
        self.inbox.clear()
        offset = self._offset(before)
        with _connected(sql, self.where) as connection:
            made = self._read(connection, offset, basis)
        return self.inbox.keep(made) if made.files else made

    def clear(self) -> None:
        """Remove the extract, whose rows must be read again."""
        self.inbox.clear()

    def clean(self, committed: str | None) -> None:
        """Remove what the commit of offset ``committed`` has made useless."""
        self.inbox.clear()
        kept = json.loads(committed)["taken"] if committed else None
        self.offsets.keep_only({kept} if isinstance(kept, str) else set())

    def _offset(self, before: str | None) -> Offset | None:
        if before is None or self.sql.watermark is None:
            return None
        body = json.loads(before)
        if body["column"] != self.sql.watermark:
            raise ConfigError(
                f"{self.where}.watermark={self.sql.watermark!r}: this source was read by {body['column']!r} so far. "
                "Give the source another name to read it again from the start."
            )
        if isinstance(body["taken"], str):
            body["taken"] = json.loads(self.offsets.read(body["taken"]))
        return Offset.from_json(json.dumps(body))

    def _kept(self, offset: Offset) -> str:
        """The offset for a snapshot's properties; many hashes go into a file that is named by its content."""
        if len(offset.taken) <= _MAX_INLINE:
            return offset.to_json()
        taken = json.dumps(offset.taken).encode()
        name = f"{hashlib.sha256(taken).hexdigest()[:32]}.json"
        self.offsets.write(name, taken)
        return json.dumps(json.loads(replace(offset, taken=type(offset.taken)()).to_json()) | {"taken": name})

    def _read(self, connection: Connection, offset: Offset | None, basis: str) -> Extract:
        result = _execute(connection, self.sql, offset)
        names, codes = _columns(result, self.sql, self.where)
        progress = Progress(self.sql.watermark, offset, names, self.sql.lag) if self.sql.watermark else None
        digest, num_files = Digest(), 0
        for rows in result.partitions(self.sql.batch_rows):
            fresh = progress.fresh(rows, digest) if progress else _all(rows, digest)
            if fresh:
                with self.inbox.sink(_name(num_files)) as sink:
                    pq.write_table(to_table(names, codes, fresh), sink, compression="zstd")
                num_files += 1
        after = progress.offset() if progress else None
        files = self._files(num_files, digest.hexdigest(*names, basis if progress else ""), offset, after)
        properties = {OFFSET: self._kept(after)} if after and files else {}
        return Extract(basis, files, properties, tuple(_warnings(connection, self.sql, progress)))

    def _files(self, num: int, digest: str, before: Offset | None, after: Offset | None) -> tuple[SourceFile, ...]:
        rows = f"{shown(self.sql.url)} {f'table {self.sql.table}' if self.sql.table else 'query'}"
        if after is not None:
            rows += f" ({before.high if before else ''}, {after.high}]"
        made = []
        for i in range(num):
            place = self.inbox.place(_name(i))
            uri = f"{rows} part {i + 1}" if num > 1 else rows
            mine = hashlib.sha256(f"{digest}:{i}".encode()).hexdigest()
            made.append(replace(describe(place, Format.parquet), uri=uri, digest=mine, place=place))
        return tuple(made)


def shown(url: str) -> str:
    """The URL as people may see it: no user, no password, no driver."""
    parsed = make_url(url)
    plain = URL.create(parsed.get_backend_name(), host=parsed.host, port=parsed.port, database=parsed.database)
    return plain.render_as_string()


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"


def _all(rows: Sequence[Sequence[Any]], digest: Digest) -> Sequence[Sequence[Any]]:
    digest.add([row_hash(row) for row in rows])
    return rows


def _execute(connection: Connection, sql: Sql, offset: Offset | None) -> CursorResult[Any]:
    origin, column = _origin(connection, sql)
    statement = f"SELECT * FROM {origin}"
    if column:
        later = f" AND {column} >= :low" if offset else ""
        statement += f" WHERE {column} IS NOT NULL{later} ORDER BY {column}"
    # Without a type of our own the database compares in the column's.
    made = text(statement).bindparams(*([bindparam("low", offset.low, type_=NullType())] if offset else []))
    return connection.execution_options(stream_results=True, max_row_buffer=sql.batch_rows).execute(made)


def _origin(connection: Connection, sql: Sql) -> tuple[str, str]:
    """What is selected from, and the watermark column, as SQL."""
    quote = connection.dialect.identifier_preparer.quote
    table = ".".join(quote(part) for part in (sql.table or "").split("."))
    origin = f"({(sql.query or '').rstrip().rstrip(';')}\n) source_rows" if sql.query else table
    return origin.replace(":", r"\:"), quote(sql.watermark).replace(":", r"\:") if sql.watermark else ""


def _columns(result: CursorResult[Any], sql: Sql, where: str) -> tuple[list[str], list[int | None]]:
    names = list(result.keys())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}.query has two columns named {twice[0]!r}: give each a name of its own.")
    if sql.watermark and sql.watermark not in names:
        raise ConfigError(f"{where}.watermark={sql.watermark!r} is no column: expected one of {', '.join(names)}.")
    postgres = result.dialect.name == "postgresql"
    described: Sequence[Any] = result.cursor.description if postgres and result.cursor else ()
    return names, [column[1] for column in described] or [None] * len(names)


def _warnings(connection: Connection, sql: Sql, progress: Progress | None) -> Iterator[str]:
    if progress is None:
        return
    if not progress.comparable:
        until = progress.before.high if progress.before else None
        yield f"{shown(sql.url)} lost a column: rows with a {sql.watermark} up to {until} count as read."
    origin, column = _origin(connection, sql)
    missing = connection.execute(text(f"SELECT count(*) FROM {origin} WHERE {column} IS NULL")).scalar()
    if missing:
        yield f"{missing:,} rows of {shown(sql.url)} have no {sql.watermark}: they are never read. Fill the column."


@contextmanager
def _connected(sql: Sql, where: str) -> Iterator[Connection]:
    """A read-only connection; whatever the database says becomes one sentence without the password."""
    url = _url(sql, where)
    connect = {"connect_timeout": _CONNECT_S} if url.get_backend_name() == "postgresql" else {}
    try:
        engine = create_engine(url, poolclass=NullPool, connect_args=connect)
        connection = engine.connect()
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(f"{where}.url: there is no driver for {url.drivername!r} here ({error}).") from error
    except DBAPIError as error:
        raise Unavailable(f"{shown(sql.url)} does not answer: {_words(error, url)}. Try again later.") from None
    with connection:
        try:
            _settle(connection)
            yield connection
        except DBAPIError as error:
            raise _refused(error, url, where) from None


def _url(sql: Sql, where: str) -> URL:
    try:
        url = make_url(sql.url)
    except ArgumentError:
        raise ConfigError(f"{where}.url is no SQLAlchemy URL such as postgresql://user@host:5432/database.") from None
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise InputError(f"{where}.url: there is no SQLite file {url.database!r}. Check the path.")
    return url


def _settle(connection: Connection) -> None:
    """Nothing is written, times come in UTC, JSON as it stands."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
    if connection.dialect.name == "postgresql":
        from psycopg.types.string import TextLoader

        connection.execution_options(postgresql_readonly=True)
        connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        # It is open: SQLAlchemy's type allows for one that is not.
        adapters = connection.connection.driver_connection.adapters  # type: ignore[union-attr]
        for name in ("json", "jsonb"):
            adapters.register_loader(name, TextLoader)


def _refused(error: DBAPIError, url: URL, where: str) -> RaysaasError:
    state, said = getattr(error.orig, "sqlstate", None) or "", _words(error, url)
    if error.connection_invalidated or state.startswith(_TRANSIENT) or "database is locked" in said:
        return Unavailable(f"{shown(str(url))} stopped answering: {said}. Try again later.")
    return ConfigError(f"{where}: {shown(str(url))} refuses it: {said}.")


def _words(error: DBAPIError, url: URL) -> str:
    said = (str(error.orig).strip().splitlines() or ["no reason given"])[0]
    return said.replace(str(url.password), "***").rstrip(".") if url.password else said.rstrip(".")
