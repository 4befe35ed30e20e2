"""A table of many small commits is kept small, forgets nothing it was told, and keeps the versions that are named."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from raysaas.errors import NotFound, Unavailable
from raysaas.features.raw import pins
from raysaas.settings import Storage
from raysaas.stores.compaction import Compacted, compact, compact_logs
from raysaas.stores.expired import clean, recall
from raysaas.stores.journal import Journal, ship
from raysaas.stores.tables import FILES, MADE_FROM, Tables, commit_order
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


def ship_one(tables: Tables, root: Path, number: int, use_case: str = "shop") -> Path:
    """Ship a decision; the place of its segment, as it was before."""
    writer = Journal(root, use_case, "decisions")
    writer.append([{"id": f"d{number}", "use_case": use_case, "tenant": "t", "version": 1, "score": 0.5,
                    "inputs": {"x": number}, "time": "2026-01-01T00:00:00+00:00"}])  # fmt: skip
    writer.close()
    (segment,) = (root / use_case).glob("decisions-*.jsonl")
    assert ship(root, use_case, "decisions", tables) == 1
    return segment


def test_logs_of_many_ships_become_few_files_and_later_ships_are_still_exactly_once(
    tables: Tables, tmp_path: Path
) -> None:
    root = tmp_path / "journal"
    segments = [ship_one(tables, root, number, "shop" if number % 2 else "bank") for number in range(16)]
    before, pinned = tables.read("log.decisions").sort_by("id"), tables.snapshots("log.decisions")[3]["snapshot_id"]
    made = {MADE_FROM: json.dumps({"snapshots": {"raw.bank__x": 1, "log.decisions": pinned}})}
    tables.append("training.bank", pa.table({"row_id": ["1"]}), made)
    done = compact_logs(tables, before=later(), newest=1)
    assert set(done) == {"log.decisions"}
    assert (done["log.decisions"].merged, done["log.decisions"].into, done["log.decisions"].versions) == (16, 1, 2)
    assert tables.read("log.decisions").sort_by("id") == before
    assert tables.count("log.decisions", pinned) == 4
    (folder,) = (tmp_path / "warehouse").rglob("log/decisions/data")
    assert len(list(folder.iterdir())) == 5, "the merged one, and the four that a training set was made of"
    for segment in segments[:2]:  # as if their shipper had been killed before the move, months ago
        (segment.parent / "shipped" / segment.name).rename(segment)
    ship_one(tables, root, 16, "new")
    assert ship(root, "shop", "decisions", tables) == ship(root, "bank", "decisions", tables) == 0
    assert sorted(tables.read("log.decisions")["id"].to_pylist()) == sorted(f"d{number}" for number in range(17))


def test_logs_are_compacted_while_shippers_go_on(tables: Tables, tmp_path: Path) -> None:
    root, errors = tmp_path / "journal", []

    def keep_shipping(use_case: str) -> None:
        try:
            for number in range(5):
                ship_one(Tables(tables.storage), root, number, use_case)
        except Exception as error:  # noqa: BLE001  told below
            errors.append(error)

    for number in range(8):
        ship_one(tables, root, number)
    shippers = [threading.Thread(target=keep_shipping, args=(name,)) for name in ("a", "b")]
    for shipper in shippers:
        shipper.start()
    while any(shipper.is_alive() for shipper in shippers):
        with suppress(Unavailable):
            compact_logs(tables, before=later(), newest=3)
    for shipper in shippers:
        shipper.join()
    compact_logs(tables, before=later(), newest=1)
    assert errors == []
    rows = tables.read("log.decisions")
    found = sorted(zip(rows["use_case"].to_pylist(), rows["id"].to_pylist(), strict=True))
    assert found == sorted([("shop", f"d{i}") for i in range(8)] + [(n, f"d{i}") for n in "ab" for i in range(5)])


def test_a_merge_that_a_shipper_came_before_leaves_nothing_and_is_tried_again(
    tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, rows = tmp_path / "journal", []

    def ship_first(_: str, step: str) -> None:
        if step == "written" and len(rows) < 1:
            rows.append(ship_one(Tables(tables.storage), root, 8, "bank"))

    for number in range(8):
        ship_one(tables, root, number)
    monkeypatch.setattr("raysaas.stores.compaction.reached", ship_first)
    done = compact_logs(tables, before=later(), newest=1)["log.decisions"]
    assert (done.merged, done.into, len(rows)) == (9, 1, 1)
    (folder,) = (tmp_path / "warehouse").rglob("log/decisions/data")
    named = {Path(task.file.file_path).name for task in tables.table("log.decisions").scan().plan_files()}
    assert {path.name for path in folder.iterdir()} == named
    assert sorted(tables.read("log.decisions")["id"].to_pylist()) == [f"d{i}" for i in range(9)]


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
