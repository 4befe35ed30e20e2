"""Databases without the bytes of deleted rows: what a deletion only marks is overwritten, as far as a client can.

SQLite files are rebuilt with an empty write-ahead log, tables of PostgreSQL are rewritten, Redis writes its files anew.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from raysaas.errors import Unavailable

_WAIT_S = 30.0
_SAVING = "rdb_bgsave_in_progress"


def vacuum(url: str, tables: Iterable[str] = ()) -> str:
    """Overwrite deleted rows in the database at ``url``; one sentence on what it keeps all the same, or nothing.

    Of PostgreSQL only ``tables`` are rewritten, each locked meanwhile. Other processes may use the database. Raises
    Unavailable when one of them is in the way for 30 s.
    """
    kind = url.partition(":")[0].partition("+")[0]
    if kind == "sqlite":
        _sqlite(url)
        return ""
    if kind in ("postgresql", "postgres"):
        _postgres(url, tables)
        return "postgresql: write-ahead log, archives and backups hold deleted rows until they are recycled"
    if kind in ("redis", "rediss"):
        return _redis(url)
    return f"{kind} keeps the bytes of deleted rows until its own vacuum"


def _sqlite(url: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("VACUUM")
        # Busy while a reader still looks at a page that only the log holds.
        _until(lambda: not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0], url)
    except sqlite3.OperationalError as error:
        raise Unavailable(
            f"{url} is in use ({error}): its deleted rows could not be overwritten. Try again."
        ) from error
    finally:
        connection.close()


def _postgres(url: str, tables: Iterable[str]) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{_WAIT_S:g}s'")
            for table in tables:
                # Only FULL leaves no old row behind: a plain one marks its place as free.
                connection.exec_driver_sql(f'VACUUM (FULL) "{table}"')
    except sa.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise Unavailable(
            f"PostgreSQL is in use ({reason}): deleted rows could not be overwritten. Try again."
        ) from error


def _redis(url: str) -> str:
    """The append-only file and the snapshot, where the server keeps them, are written anew."""
    import redis

    client: Any = redis.Redis.from_url(url, socket_timeout=_WAIT_S)

    def idle() -> bool:
        told = client.info("persistence")
        return not any(told.get(name) for name in ("aof_rewrite_in_progress", "aof_rewrite_scheduled", _SAVING))

    try:
        _until(idle, "Redis")
        if client.info("persistence")["aof_enabled"]:
            client.bgrewriteaof()
            _until(idle, "Redis")
        if client.config_get("save").get("save"):
            client.bgsave()
            _until(idle, "Redis")
    except redis.ConnectionError as error:
        raise Unavailable(f"Redis does not answer ({type(error).__name__}). Try again.") from error
    except redis.ResponseError as error:
        return f"redis: snapshots and append-only files hold deleted rows until they are rewritten ({error})"
    finally:
        client.close()
    return ""


def _until(done: Callable[[], bool], name: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{name} is in use: deleted rows could not be overwritten within {_WAIT_S:g} s. Try again."
            )
        time.sleep(0.1)
