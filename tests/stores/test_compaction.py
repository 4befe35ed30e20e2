"""A table of many small commits is kept small, forgets nothing it was told, and keeps the versions that are named."""

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raysaas.errors import NotFound
from raysaas.features.raw import pins
from raysaas.settings import Storage
from raysaas.stores.compaction import Compacted, compact
from raysaas.stores.expired import clean, recall
from raysaas.stores.tables import FILES, Tables, commit_order
from raysaas.use_case import Examples, Source, UseCase

NAME = "raw.shop__orders"
OFFSET = "raysaas.offset"


def commit(tables: Tables, number: int) -> int:
    rows = pa.table({"row_id": [f"{number:016x}-1"], "tenant": ["t"], "entity": [f"e{number}"], "amount": [number]})
    told = {
        FILES: json.dumps([f"{number:016x}{0:048x}"]),
        OFFSET: f'{{"low": {number}}}',
        "raysaas.segments": f"s{number}",
    }
    return tables.append(NAME, rows, told)


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def numbers(tables: Tables, snapshot: int | None = None) -> list[int]:
    return sorted(tables.read(NAME, snapshot=snapshot)["amount"].to_pylist())


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(Storage(home=str(tmp_path)))


def test_fifty_rounds_leave_a_small_table(tables: Tables, tmp_path: Path) -> None:
    sizes = []
    pinned = named = 0
    for number in range(50):
        snapshot = commit(tables, number)
        if number == 3:
            pinned = snapshot
            tables.tag(NAME, snapshot, "shop-v1")
        if number == 5:
            named = snapshot
        if number % 10 == 9:
            told = tables.history(NAME)
            compact(tables, NAME, before=later(), keep=[named], newest=2)
            found = tables.history(NAME)
            assert [one["properties"].get(FILES) for one in found if FILES in one["properties"]] == [
                one["properties"][FILES] for one in told if FILES in one["properties"]
            ]
            sizes.append(len(Path(tables.table(NAME).metadata_location.removeprefix("file://")).read_bytes()))
    assert numbers(tables) == list(range(50))
    assert numbers(tables, pinned) == [0, 1, 2, 3]
    assert numbers(tables, named) == list(range(6))
    assert len(tables.snapshots(NAME)) == 4, "the two that are named, and the two newest"
    assert commit_order(tables.history(NAME)) == [f"{number:016x}" for number in range(50)]
    assert [one["properties"][OFFSET] for one in tables.history(NAME) if OFFSET in one["properties"]][
        -1
    ] == '{"low": 49}'
    assert max(sizes[1:]) < 1.2 * min(sizes[1:]), sizes
    assert len(list((tmp_path / "warehouse").rglob("*.parquet"))) <= 20, (
        "the newest before and after, and those of the versions that are named"
    )
    assert len(list((tmp_path / "warehouse").rglob("*.metadata.json"))) <= 21


def test_metadata_that_nothing_names_goes_once_it_is_old(tables: Tables, tmp_path: Path) -> None:
    commit(tables, 0)
    folder = tmp_path / "warehouse" / "raw" / "shop__orders" / "metadata"
    lost, young = folder / "00000-lost.metadata.json", folder / "00000-young.metadata.json"
    for path in (lost, young):
        path.write_text("{}")
    os.utime(lost, (0, 0))
    assert compact(tables, NAME, before=later()).deleted == 1
    assert not lost.exists()
    assert young.exists()
    assert numbers(tables) == [0]


def test_young_versions_stay(tables: Tables) -> None:
    for number in range(12):
        commit(tables, number)
    done = compact(tables, NAME, before=datetime.now(UTC) - timedelta(hours=1), newest=0)
    assert (done.merged, done.into, done.expired, done.versions) == (12, 1, 0, 13)
    assert compact(tables, NAME, before=later(), newest=100).expired == 0
    assert compact(tables, NAME, before=later(), newest=0).expired == 12
    assert compact(tables, NAME, before=later(), newest=0) == Compacted(versions=1)
    assert numbers(tables) == list(range(12))
    assert compact(tables, "raw.shop__nothing", before=later()) == Compacted()


def test_a_time_whose_version_expired_reads_the_next_one(tables: Tables) -> None:
    ids, times = [], []
    for number in range(5):
        ids.append(commit(tables, number))
        times.append(datetime.now(UTC))
    tables.tag(NAME, ids[3], "shop-v1")
    compact(tables, NAME, before=later(), newest=1)
    use_case = UseCase(name="shop", sources={"orders": Source(path="x")}, examples=Examples(source="orders", label="x"))
    for asked, found in ((0, ids[3]), (1, ids[3]), (3, ids[3]), (4, ids[4])):
        assert pins(use_case, tables, times[asked]) == {NAME: found}, asked


def test_a_ledger_that_does_not_know_is_told_of(tables: Tables, tmp_path: Path) -> None:
    for number in range(3):
        commit(tables, number)
    compact(tables, NAME, before=later(), newest=1)
    other = Tables(Storage(home=str(tmp_path), ledger_url=f"sqlite:///{tmp_path}/another.db"))
    with pytest.raises(NotFound, match=r"2 versions of .* expired, and the ledger knows 0"):
        other.history(NAME)


def test_what_a_commit_said_can_be_cleaned(tables: Tables) -> None:
    for number in range(3):
        commit(tables, number)
    compact(tables, NAME, before=later(), newest=1)
    url = tables.storage.ledger_url or ""
    assert clean(url, [NAME], lambda text: text.replace("s1", "gone")) == 1
    assert [one["properties"]["raysaas.segments"] for one in recall(url, NAME)] == ["s0", "gone"]


RUN = """
import sys
from datetime import UTC, datetime, timedelta
from raysaas.settings import Storage
from raysaas.stores.compaction import compact
from raysaas.stores.tables import Tables
compact(Tables(Storage(home=sys.argv[1])), "raw.shop__orders", before=datetime.now(UTC) + timedelta(hours=1), newest=1)
"""


def test_a_run_that_is_killed_is_completed_by_the_next(tables: Tables, tmp_path: Path) -> None:
    for step, number in (("written", 0), ("merged", 10), ("remembered", 20), ("expired", 30)):
        for i in range(10):
            commit(tables, number + i)
        env = {**os.environ, "RAYSAAS_FAULT": f"compact.{step}"}
        done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path)], env=env, timeout=60, check=False)
        assert done.returncode == -signal.SIGKILL, step
        assert commit_order(tables.history(NAME)) == [f"{n:016x}" for n in range(number + 10)], step
        assert numbers(tables) == list(range(number + 10)), step
    compact(tables, NAME, before=later(), newest=1)
    assert len(tables.snapshots(NAME)) == 1
    assert numbers(tables) == list(range(40))
