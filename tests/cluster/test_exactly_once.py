"""Ingest killed by ``kill -9`` at every named step, one kill upon the other, while new rows keep coming.

Afterwards each row is in the table or in quarantine, exactly once.
"""

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import ray

from raysaas.faults import INGEST
from raysaas.ingest.compacting import compact_source
from raysaas.ingest.history import history
from raysaas.ingest.pipeline import ingest
from raysaas.ingest.planning import Target
from raysaas.ingest.refused_rows import ATTEMPT
from raysaas.ingest.waiting import waiting
from raysaas.settings import Ingest, Settings, Storage
from raysaas.stores.journal import KNOWN_AT, TENANT, Journal, events_kind
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, Sql, UseCase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = {"id": Column(type=ColumnType.integer, required=True), "amount": Column(min=0)}
SENT = 1000  # ids from here on come as events
JOB = textwrap.dedent("""
    import pickle, sys, ray
    from raysaas.ingest.pipeline import ingest
    from raysaas.stores.tables import Tables
    settings, now = pickle.loads(open(sys.argv[1], "rb").read())
    ray.init(address=sys.argv[2], log_to_driver=False)
    ingest(settings, "orders", Tables(settings.storage), now)
""")
pytestmark = pytest.mark.usefixtures("ray_cluster")


def _settings(tmp_path: Path, source: Source) -> Settings:
    use_case = UseCase(name="shop", sources={"orders": source}, examples=Examples(source="orders", label="amount"))
    return Settings(
        use_case=use_case, storage=Storage(home=str(tmp_path / "var")), ingest=Ingest(error_budget=0.5),
        data_dir=str(tmp_path),
    )  # fmt: skip


def _run(settings: Settings, tmp_path: Path, fault: str = "") -> int:
    """The job in a process of its own; returns how it ended."""
    (tmp_path / "job.pickle").write_bytes(pickle.dumps((settings, NOW)))
    command = [sys.executable, "-c", JOB, str(tmp_path / "job.pickle"), ray.get_runtime_context().gcs_address]
    return subprocess.run(command, env={**os.environ, "RAYSAAS_FAULT": fault}, timeout=120, check=False).returncode


def _killed(
    settings: Settings, tmp_path: Path, add: Callable[[int], None], offsets: Sequence[int], steps: Sequence[str]
) -> None:
    """Rows 10k to 10k + 4, plus each offset, come before the k-th kill; of those the last breaks the contract."""
    for number, step in enumerate(steps):
        add(number * 10)
        assert _run(settings, tmp_path, f"ingest.{step}") == -signal.SIGKILL, f"{step} was not reached"
    add(len(steps) * 10)
    tables = Tables(settings.storage)
    # A batch that was left half-way is finished before what came later is begun.
    while ingest(settings, "orders", tables, NOW).num_read:
        pass
    starts = [10 * k + offset for offset in offsets for k in range(len(steps) + 1)]
    rows = tables.read("raw.shop__orders")
    assert sorted(rows["id"].to_pylist()) == [start + i for start in starts for i in range(4)]
    attempts = {s["properties"].get(ATTEMPT) for s in tables.snapshots("raw.shop__orders")}
    refused = [row for row in tables.read("quarantine.shop__orders").to_pylist() if row["attempt"] in attempts]
    assert sorted(row["value"] for row in refused) == sorted(str(-start - 4) for start in starts)


def _at(i: int) -> datetime:
    return datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=i)


def _rows(start: int) -> list[tuple[int, int]]:
    return [(start + i, -(start + i) if i == 4 else 1) for i in range(5)]


def test_files_and_events_of_one_source(tmp_path: Path) -> None:
    settings = _settings(tmp_path, Source(path="orders-*.csv", events=True, columns=COLUMNS))

    def add(start: int) -> None:
        lines = "".join(f"{i},{amount}\n" for i, amount in _rows(start))
        (tmp_path / f"orders-{start:03d}.csv").write_text("id,amount\n" + lines)
        journal = Journal(settings.storage.journal or "", "shop", events_kind("orders"))
        for i, amount in _rows(start + SENT):
            journal.append([{"id": i, "amount": amount, TENANT: f"t{i % 2}", KNOWN_AT: _at(i).isoformat()}])
        journal.close()

    _killed(settings, tmp_path, add, [0, SENT], INGEST)
    rows = Tables(settings.storage).read("raw.shop__orders").to_pylist()
    sent = [row for row in rows if row["id"] >= SENT]
    assert all(row["tenant"] == f"t{row['id'] % 2}" for row in sent)
    assert all(row["known_at"] == row["event_time"] == _at(row["id"]) for row in sent)
    assert {(row["tenant"], row["known_at"]) for row in rows if row not in sent} == {("default", NOW)}
    assert not list((tmp_path / "var" / "warehouse" / "inbox").rglob("*.jsonl"))
    journal = tmp_path / "var" / "journal" / "shop"
    assert not list(journal.glob("*.jsonl"))
    for segment in (journal / "shipped").iterdir():
        segment.rename(journal / segment.name)  # as if none had been moved
    assert ingest(settings, "orders", Tables(settings.storage), NOW).num_read == 0
    assert not list(journal.glob("*.jsonl"))


def test_sql(tmp_path: Path) -> None:
    path = tmp_path / "crm.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (id INTEGER, amount INTEGER, seen INTEGER)")

    def add(start: int) -> None:
        with sqlite3.connect(path) as db:
            # Every other batch begins at the very watermark with which the one before it ended.
            db.executemany("INSERT INTO orders VALUES (?, ?, ?)", [(i, a, (start + 9) // 20) for i, a in _rows(start)])

    source = Source(sql=Sql(url=f"sqlite:///{path}", table="orders", watermark="seen", batch_rows=3), columns=COLUMNS)
    settings = _settings(tmp_path, source)
    _killed(settings, tmp_path, add, [0], INGEST)
    assert not list((tmp_path / "var" / "warehouse" / "inbox").rglob("*.parquet"))


def test_nothing_comes_twice_after_its_version_expired(tmp_path: Path) -> None:
    """Files, segments of events and a database's offset are known from commits whose versions are gone."""
    path = tmp_path / "crm.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE orders (id INTEGER, amount INTEGER, seen INTEGER)")
    pushed = Source(path="orders-*.csv", events=True, columns=COLUMNS)
    polled = Source(sql=Sql(url=f"sqlite:///{path}", table="orders", watermark="seen"), columns=COLUMNS)
    settings = _settings(tmp_path, pushed)
    settings.use_case.sources["crm"] = polled
    settings.ingest.keep_hours = 0
    tables, journal = Tables(settings.storage), Journal(settings.storage.journal or "", "shop", events_kind("orders"))

    def look(start: int) -> int:
        if start < SENT:
            (tmp_path / f"orders-{start}.csv").write_text(f"id,amount\n{start},1\n{start + 1},-1\n{start + 2},1\n")
            journal.append([{"id": start + SENT, "amount": 1, TENANT: "t", KNOWN_AT: _at(0).isoformat()}])
            journal.rotate()
            with sqlite3.connect(path) as db:
                db.execute("INSERT INTO orders VALUES (?, 1, 7)", (start,))
        return sum(ingest(settings, name, tables, NOW).num_read for name in ("orders", "crm"))

    for start in (0, 10, 20):
        assert look(start) == 5
    for name in ("orders", "crm"):
        told = compact_source(settings, name, tables, datetime.now(UTC), newest=1)
        assert told[f"raw.shop__{name}"]["expired"] == 2
        assert told[f"raw.shop__{name}"]["versions"] == 1
    shipped = tmp_path / "var" / "journal" / "shop" / "shipped"
    for segment in shipped.iterdir():
        segment.rename(shipped.parent / segment.name)  # as if none had been moved
    assert look(SENT) == 0
    assert look(30) == 5
    ids = sorted(start + i for start in (0, 10, 20, 30) for i in (0, 2, SENT))
    assert sorted(tables.read("raw.shop__orders")["id"].to_pylist()) == sorted(ids)
    assert sorted(tables.read("raw.shop__crm")["id"].to_pylist()) == [0, 10, 20, 30]
    wait = waiting(tables, Target("shop", "orders"))
    assert sorted(wait.rows["value"].to_pylist()) == ["-1"] * 4
    assert wait.held == 0
    assert len(history(tables, Target("shop", "orders"))) == 4
