"""What the commits of expired versions said, in the ledger's database: files taken, segments, offsets, findings.

Ingest knows by them what it took. They are written down before a version goes, so a run that is killed in between
leaves them in both places, which harms nobody.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

_META = sa.MetaData()
_COMMITS = sa.Table(
    "expired_commits", _META,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("snapshot_id", sa.BigInteger, primary_key=True),
    sa.Column("committed_us", sa.BigInteger, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)  # fmt: skip
TABLE = _COMMITS.name
_AT_ONCE = 500


def remember(url: str, name: str, commits: Iterable[Mapping[str, Any]]) -> None:
    """Write down commits of table ``name``, as ``Tables.snapshots`` tells them; those that are known stay."""
    with _database(url) as connection:
        known = set(connection.execute(sa.select(_COMMITS.c.snapshot_id).where(_COMMITS.c.name == name)).scalars())
        rows = [_row(name, one) for one in commits if one["snapshot_id"] not in known]
        for start in range(0, len(rows), _AT_ONCE):
            connection.execute(_COMMITS.insert(), rows[start : start + _AT_ONCE])


def recall(url: str, name: str) -> list[dict[str, Any]]:
    """The commits of table ``name`` that were written down, oldest first, with ``expired`` set."""
    query = sa.select(_COMMITS).where(_COMMITS.c.name == name).order_by(_COMMITS.c.committed_us)
    with _database(url) as connection:
        rows = connection.execute(query).mappings().all()
    return [
        {"snapshot_id": row["snapshot_id"], "committed_at": datetime.fromtimestamp(row["committed_us"] / 1e6, UTC),
         **row["body"], "expired": True} for row in rows
    ]  # fmt: skip


@lru_cache(8)
def recalled(url: str, name: str, num: int) -> tuple[dict[str, Any], ...]:
    """:func:`recall`, read anew when ``num``, the number of expired versions, is another: a commit never changes."""
    return tuple(recall(url, name))


def clean(url: str, names: Sequence[str], cleaned: Callable[[str], str]) -> int:
    """Replace the properties' values in the commits of tables ``names`` by what ``cleaned`` makes of them; how many."""
    count = 0
    with _database(url) as connection:
        for row in connection.execute(sa.select(_COMMITS).where(_COMMITS.c.name.in_(names))).mappings().all():
            properties = {key: cleaned(value) for key, value in row["body"]["properties"].items()}
            if properties != row["body"]["properties"]:
                where = (_COMMITS.c.name == row["name"]) & (_COMMITS.c.snapshot_id == row["snapshot_id"])
                connection.execute(
                    _COMMITS.update().where(where).values(body={**row["body"], "properties": properties})
                )
                count += 1
    recalled.cache_clear()
    return count


def _row(name: str, commit: Mapping[str, Any]) -> dict[str, Any]:
    body = {key: commit[key] for key in ("operation", "parent", "properties")}
    moment = round(commit["committed_at"].timestamp() * 1e6)
    return {"name": name, "snapshot_id": commit["snapshot_id"], "committed_us": moment, "body": body}


@contextmanager
def _database(url: str) -> Iterator[sa.Connection]:
    waits = {"timeout": 30} if url.startswith("sqlite") else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=waits)
    with engine.begin() as connection:
        _META.create_all(connection)
        yield connection
