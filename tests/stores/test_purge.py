"""Rows out of Iceberg tables: out of every version and file, whoever writes or dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.leftovers import leftovers

from raysaas.errors import NotFound
from raysaas.settings import Storage
from raysaas.stores.purge import Purged, purge, resolve
from raysaas.stores.subject import Subject
from raysaas.stores.survey import survey
from raysaas.stores.tables import Tables

TABLE, TENANT = "raw.shop__orders", "tenant-of-the-purge-tests"
WHO = "kunde-ä-0000000042-die-vergessen-wird"
ROWS = Subject("shop", TENANT, WHO).rows()


def rows(*entities: str, tenant: str = TENANT) -> pa.Table:
    size = len(entities)
    return pa.table({"tenant": [tenant] * size, "entity": list(entities), "amount": list(range(size))})


def entities(tables: Tables, snapshot: int | None = None) -> list[str]:
    return sorted(tables.read(TABLE, snapshot=snapshot)["entity"].to_pylist())


def adopt(tables: Tables, table: pa.Table, part: str, properties: dict[str, str]) -> int:
    path = Path(tables.storage.home) / "warehouse" / "raw" / "shop__orders" / "staged" / part / "part-0.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path, compression="zstd")
    return tables.add_files(TABLE, table.schema, [f"file://{path}"], properties)


@pytest.fixture
def tables(home: Path) -> Tables:
    return Tables(Storage(home=str(home)))


@pytest.fixture
def versions(tables: Tables) -> list[int]:
    """Four versions: before the entity came, with it by a write, with it by a file that was adopted, and a newer one.

    The first three are tagged.
    """
    made = [tables.append(TABLE, rows("a", "b"), {"raysaas.files": '["f1"]', "raysaas.segments": "s1,s2"})]
    made += [tables.append(TABLE, rows("c", WHO), {"raysaas.files": '["f2"]', "raysaas.offset": "old"})]
    contract = json.dumps({"rules": {"min": {"example": WHO, "count": 1}}})
    made += [adopt(tables, rows("d", WHO, "e"), "k", {"raysaas.files": '["f3"]', "raysaas.contract": contract})]
    made += [tables.append(TABLE, rows("f"), {"raysaas.segments": "s3", "raysaas.offset": "new"})]
    for number, snapshot in enumerate(made[:3], 1):
        tables.tag(TABLE, snapshot, f"shop-v{number}")
    return made


def test_no_byte_is_left_and_versions_that_never_held_it_stay(tables: Tables, versions: list[int], home: Path) -> None:
    assert len(leftovers(home, WHO)) >= 4  # two data files, their manifests, metadata with the contract
    told: list[int] = []
    done = purge(tables, TABLE, ROWS, mark="r1", note=told.append)
    assert (done.rows, done.copies, told, sorted(done.tags)) == (2, 2, [2], ["shop-v2", "shop-v3"])
    assert leftovers(home, WHO) == []
    tags = tables.tags(TABLE)
    assert tags["shop-v1"] == versions[0]
    assert entities(tables, versions[0]) == ["a", "b"]
    assert [entities(tables, tags[f"shop-v{n}"]) for n in (2, 3)] == [["a", "b", "c"], ["a", "b", "c", "d", "e"]]
    assert entities(tables) == ["a", "b", "c", "d", "e", "f"]
    known = tables.snapshots(TABLE)
    assert known[-1]["snapshot_id"] == tables.current(TABLE), "who takes the last version must get the newest"
    assert {s["snapshot_id"] for s in known}.isdisjoint(versions[1:])
    heirs = [resolve(tables, TABLE, old) for old in versions]
    assert heirs[:3] == [versions[0], tags["shop-v2"], tags["shop-v3"]]
    assert entities(tables, heirs[3]) == entities(tables)
    assert purge(tables, TABLE, ROWS) == Purged()


def test_what_was_taken_stays_known(tables: Tables, versions: list[int]) -> None:
    purge(tables, TABLE, ROWS)
    known = [snapshot["properties"] for snapshot in tables.snapshots(TABLE)]
    assert {file for own in known for file in json.loads(own.get("raysaas.files", "[]"))} == {"f1", "f2", "f3"}
    assert {own["raysaas.segments"] for own in known if "raysaas.segments" in own} == {"s1,s2", "s3"}
    assert next(own["raysaas.offset"] for own in reversed(known) if "raysaas.offset" in own) == "new"
    contracts = [json.loads(own["raysaas.contract"]) for own in known if "raysaas.contract" in own]
    assert contracts == [{"rules": {"min": {"example": "(forgotten)", "count": 1}}}]


def test_the_versions_in_between_have_heirs_of_their_time(tables: Tables) -> None:
    tables.append(TABLE, rows("a"), {"raysaas.files": '["f0"]'})
    held = [tables.append(TABLE, rows(str(n), WHO), {"raysaas.files": f'["f{n}"]'}) for n in range(1, 4)]
    before = [(s["committed_at"], s["properties"]["raysaas.files"]) for s in tables.snapshots(TABLE)]
    done = purge(tables, TABLE, ROWS)
    assert list(done.versions) == held
    *after, newest = tables.snapshots(TABLE)
    assert [(s["committed_at"], s["properties"]["raysaas.files"]) for s in after] == before
    assert [s["parent"] for s in (*after[1:], newest)] == [s["snapshot_id"] for s in after]
    heirs = [resolve(tables, TABLE, old) for old in held]
    assert heirs == [snapshot["snapshot_id"] for snapshot in after][1:]
    assert [entities(tables, heir) for heir in heirs] == [["1", "2", "3", "a"]] * 3
    tables.append(TABLE, rows("later"))
    assert (tables.count(TABLE), entities(tables)) == (5, ["1", "2", "3", "a", "later"])
    totals = tables.snapshots(TABLE)[-1]["properties"]
    assert (totals["total-records"], totals["total-data-files"]) == ("5", "5")


def test_an_entity_of_another_tenant_stays(tables: Tables) -> None:
    tables.append(TABLE, rows(WHO))
    tables.append(TABLE, rows(WHO, tenant="another"))
    purge(tables, TABLE, ROWS)
    assert tables.read(TABLE).select(["tenant", "entity"]).to_pylist() == [{"tenant": "another", "entity": WHO}]
    assert purge(tables, TABLE, Subject("shop", "another").rows()).rows == 1
    assert tables.count(TABLE) == 0


def test_a_version_that_only_mentions_the_rows_goes_too(tables: Tables, home: Path) -> None:
    """An overwrite keeps the bounds of the files that it deleted."""
    tables.append(TABLE, rows("a", WHO))
    tables.overwrite(TABLE, rows("a"))
    assert any(path.endswith(".avro") for path in leftovers(home, WHO))
    done = purge(tables, TABLE, ROWS)
    assert (done.rows, done.copies) == (0, 1)
    assert leftovers(home, WHO) == []
    assert entities(tables) == ["a"]


def test_a_version_that_is_asked_for_is_kept_as_a_copy(tables: Tables) -> None:
    first = tables.append(TABLE, rows("a", WHO))
    tables.overwrite(TABLE, rows("z"))
    purge(tables, TABLE, ROWS, keep={first})
    heir = resolve(tables, TABLE, first)
    assert entities(tables, heir) == ["a"]
    assert entities(tables) == ["z"]
    second = purge(tables, TABLE, Subject("shop", TENANT, "a").rows(), keep={heir})
    assert second.copies == 1
    assert tables.count(TABLE, resolve(tables, TABLE, first)) == 0, "a copy of a copy stands for the first"


def test_a_newest_version_without_the_rows_stays_if_somebody_needs_it(tables: Tables) -> None:
    held = tables.append(TABLE, rows("a", WHO))
    tables.tag(TABLE, held, "shop-v1")
    clean = tables.overwrite(TABLE, rows("z"))
    again = tables.append(TABLE, rows("y"))
    tables.tag(TABLE, again, "shop-v2")
    purge(tables, TABLE, ROWS)
    assert tables.tags(TABLE)["shop-v2"] == again
    assert (entities(tables, again), entities(tables)) == (["y", "z"], ["y", "z"])
    assert entities(tables, tables.tags(TABLE)["shop-v1"]) == ["a"]
    assert entities(tables, clean) == ["z"]


def test_files_that_no_version_names_go_if_they_hold_rows(tables: Tables, versions: list[int], home: Path) -> None:
    staged = home / "warehouse" / "raw" / "shop__orders" / "staged"
    for name, table in (("killed", rows("x", WHO)), ("other", rows("x", "y"))):
        (staged / name).mkdir()
        pq.write_table(table, staged / name / "part-0.parquet")
    (staged / "killed" / "half.parquet").write_bytes(b"PAR1 no end yet")
    done = purge(tables, TABLE, ROWS)
    assert not (staged / "killed" / "part-0.parquet").exists()
    assert (staged / "other" / "part-0.parquet").exists()
    assert [Path(path).name for path in done.unread] == ["half.parquet"], "it may be being written"
    os.utime(staged / "killed" / "half.parquet", (0, 0))
    assert purge(tables, TABLE, ROWS).files == 1
    assert not (staged / "killed" / "half.parquet").exists()


def test_left_files_of_a_table_that_was_never_made(tables: Tables, home: Path) -> None:
    staged = home / "warehouse" / "raw" / "shop__orders" / "staged" / "k"
    staged.mkdir(parents=True)
    pq.write_table(rows(WHO), staged / "part-0.parquet")
    assert purge(tables, TABLE, ROWS).files == 1
    assert leftovers(home, WHO) == []


KILLED = """
import sys
from tests.stores.test_purge import ROWS, TABLE, Storage, Tables, purge
purge(Tables(Storage(home=sys.argv[1])), TABLE, ROWS)
"""


@pytest.mark.parametrize("step", ["intended", "committed"])
def test_a_run_that_is_killed_is_completed_by_the_next(
    tables: Tables, versions: list[int], home: Path, step: str
) -> None:
    env = {**os.environ, "RAYSAAS_FAULT": f"purge.{step}"}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(home)], env=env, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert leftovers(home, WHO), "the drill came too late to say anything"
    purge(tables, TABLE, ROWS)
    assert leftovers(home, WHO) == []
    assert entities(tables) == ["a", "b", "c", "d", "e", "f"]
    assert entities(tables, tables.tags(TABLE)["shop-v2"]) == ["a", "b", "c"]
    assert not list(home.rglob("purge-*.json"))


def test_rows_that_others_append_meanwhile_are_kept(tables: Tables, versions: list[int], home: Path) -> None:
    """Writers in processes' stead: each has a catalog of its own."""
    stop, added = threading.Event(), []

    def append() -> None:
        own = Tables(Storage(home=str(home)))
        while not stop.is_set():
            name = f"new-{threading.get_ident()}-{len(added)}"
            own.append(TABLE, rows(name, WHO) if len(added) == 1 else rows(name))
            added.append(name)
            time.sleep(0.3)

    threads = [threading.Thread(target=append) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        try:
            while len(added) < 3:
                time.sleep(0.05)
            purge(tables, TABLE, ROWS)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    for path in home.rglob("*.metadata.json"):
        os.utime(path, (0, 0))  # those of refused commits are left for a while: they may be about to be committed
    assert purge(tables, TABLE, ROWS).unread == ()
    assert leftovers(home, WHO) == []
    assert entities(tables) == sorted(["a", "b", "c", "d", "e", "f", *added])


def test_a_survey_counts_by_version(tables: Tables, versions: list[int]) -> None:
    found = survey(tables, TABLE, ROWS)
    assert [found.held(snapshot) for snapshot in versions] == [0, 1, 2, 2]
    assert found.dirty() == versions[1:]
    assert survey(tables, "raw.none", ROWS).dirty() == []
    with pytest.raises(NotFound):
        tables.table("raw.none")
