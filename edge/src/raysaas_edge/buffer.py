"""The site's durable memory: decisions with their rows, and outcomes on their way to the cluster.

SQLite in WAL mode with full synchronisation: what was added survives a power cut. It never grows beyond its bound; the
oldest go first, and how many went is counted, never silent.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysaas.models.encode import Encoder
from raysaas_edge.predict import LocalDecision
from raysaas_edge.rows import LABEL

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, inputs TEXT NOT NULL, score REAL NOT NULL,
    label TEXT, version TEXT NOT NULL, time TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outcomes (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, decision_id TEXT UNIQUE NOT NULL, label TEXT NOT NULL,
    observed_at TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'queued');
CREATE INDEX IF NOT EXISTS queued ON outcomes (seq) WHERE state = 'queued';
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


_COUNTERS = (
    "decisions_added",
    "decisions_dropped",
    "outcomes_added",
    "outcomes_dropped",
    "outcomes_sent",
    "outcomes_refused",
)
_KNOWN = "SELECT d.inputs, o.label FROM decisions d JOIN outcomes o ON o.decision_id = d.id ORDER BY d.seq"


@dataclass(frozen=True, slots=True)
class Queued:
    """One outcome that the cluster has not confirmed; ``seq`` is its place in the queue."""

    seq: int
    decision_id: str
    label: str
    observed_at: str


class Buffer:
    """Decisions and outcomes of one site in one SQLite file, at most ``max_rows`` of each."""

    def __init__(self, path: Path, max_rows: int = 100_000) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._max_rows = max_rows
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add_decisions(self, decisions: Sequence[LocalDecision]) -> None:
        """Keep decisions with their rows; the oldest beyond the bound are dropped and counted."""
        rows = [(d.id, json.dumps(d.inputs), d.score, d.label, d.version, d.time.isoformat()) for d in decisions]
        statement = "INSERT INTO decisions (id, inputs, score, label, version, time) VALUES (?, ?, ?, ?, ?, ?)"
        self._write(statement, rows, table="decisions")

    def add_outcomes(self, outcomes: Iterable[tuple[str, str, datetime]]) -> None:
        """Queue (decision id, label, observed at); the first outcome of a decision stays."""
        rows = [(decision_id, label, observed_at.isoformat()) for decision_id, label, observed_at in outcomes]
        statement = "INSERT OR IGNORE INTO outcomes (decision_id, label, observed_at) VALUES (?, ?, ?)"
        self._write(statement, rows, table="outcomes")

    def _write(self, statement: str, rows: list[tuple[Any, ...]], *, table: str) -> None:
        with _transaction(self._db):
            before = self._db.total_changes
            self._db.executemany(statement, rows)
            self._count(f"{table}_added", self._db.total_changes - before)
            over = self._scalar(f"SELECT count(*) FROM {table}") - self._max_rows
            if over > 0:
                self._drop(table, over)

    def _drop(self, table: str, num_rows: int) -> None:
        # Outcomes that the cluster has confirmed go first: they are no loss and are not counted as one.
        order, is_loss = ("state = 'queued', seq", "state = 'queued'") if table == "outcomes" else ("seq", "1")
        oldest = f"SELECT seq FROM {table} ORDER BY {order} LIMIT {num_rows}"
        lost = self._scalar(f"SELECT count(*) FROM {table} WHERE {is_loss} AND seq IN ({oldest})")
        self._count(f"{table}_dropped", lost)
        self._db.execute(f"DELETE FROM {table} WHERE seq IN ({oldest})")

    def queued(self, limit: int) -> list[Queued]:
        """The oldest outcomes that the cluster has not confirmed."""
        statement = (
            "SELECT seq, decision_id, label, observed_at FROM outcomes WHERE state = 'queued' ORDER BY seq LIMIT ?"
        )
        return [Queued(*row) for row in self._db.execute(statement, (limit,))]

    def mark(self, outcomes: Sequence[Queued], state: str) -> None:
        """Take outcomes out of the queue: ``sent`` was confirmed, ``refused`` will never be accepted."""
        with _transaction(self._db):
            self._db.executemany(
                "UPDATE outcomes SET state = ? WHERE seq = ?", [(state, each.seq) for each in outcomes]
            )
            self._count(f"outcomes_{state}", len(outcomes))

    def counts(self) -> dict[str, int]:
        """Counters since the file was made, and what is held now."""
        held = {
            "decisions_held": self._scalar("SELECT count(*) FROM decisions"),
            "outcomes_queued": self._scalar("SELECT count(*) FROM outcomes WHERE state = 'queued'"),
        }
        return dict.fromkeys(_COUNTERS, 0) | dict(self._db.execute("SELECT name, value FROM counters")) | held

    def export(self, path: Path, encoder: Encoder) -> int:
        """Write the rows whose outcome is known as Parquet to train on, whole or not at all; returns their number."""
        pairs = [(json.loads(inputs), label) for inputs, label in self._db.execute(_KNOWN)]
        columns = encoder.rows([inputs for inputs, _ in pairs], "ignore") if pairs else {}
        part = path.with_suffix(".part")
        pq.write_table(pa.table(_arrow(columns, [label for _, label in pairs])), part)
        part.replace(path)
        return len(pairs)

    def _count(self, name: str, by: int) -> None:
        statement = "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
        self._db.execute(statement, (name, by))

    def _scalar(self, statement: str) -> int:
        return int(self._db.execute(statement).fetchone()[0])


def _arrow(columns: Mapping[str, Any], labels: list[str]) -> dict[str, pa.Array]:
    return {name: pa.array(values.tolist()) for name, values in columns.items()} | {
        LABEL: pa.array(labels, pa.string())
    }


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Two processes of a site wait for each other at its start instead of failing at its end."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
