"""Iceberg tables: versions, atomic commits, tags, schema growth."""

import pickle
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from raysaas.errors import NotFound
from raysaas.settings import Storage
from raysaas.stores.tables import Tables

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tables(home: Path) -> Tables:
    return Tables(Storage(home=str(home)))


def test_a_version_is_a_snapshot_that_stays_readable(tables: Tables) -> None:
    first = tables.append("raw.x", pa.table({"a": [1, 2]}), {"why": "first"})
    second = tables.append("raw.x", pa.table({"a": [3]}))
    assert sorted(tables.read("raw.x")["a"].to_pylist()) == [1, 2, 3]
    assert sorted(tables.read("raw.x", snapshot=first)["a"].to_pylist()) == [1, 2]
    assert [s["snapshot_id"] for s in tables.snapshots("raw.x")] == [first, second]
    assert tables.snapshots("raw.x")[0]["properties"]["why"] == "first"
    assert (tables.count("raw.x"), tables.count("raw.x", first)) == (3, 2)


def test_types_come_back_as_the_platform_writes_them(tables: Tables) -> None:
    rows = pa.table(
        {
            "s": pa.array(["x", None], pa.large_string()),
            "t": pa.array([NOW, None], pa.timestamp("ns", "UTC")),
            "n": [1.5, None],
            "b": [True, None],
        }
    )
    tables.append("raw.x", rows)
    back = tables.read("raw.x")
    assert back.schema.types == [pa.string(), pa.timestamp("us", "UTC"), pa.float64(), pa.bool_()]
    assert back.to_pylist() == rows.to_pylist()
    assert tables.schema("raw.x") == back.schema


def test_new_columns_widen_the_table_and_missing_ones_become_null(tables: Tables) -> None:
    tables.append("raw.x", pa.table({"a": [1]}))
    tables.append("raw.x", pa.table({"b": ["new"]}))
    assert sorted(tables.read("raw.x").to_pylist(), key=str) == [{"a": 1, "b": None}, {"a": None, "b": "new"}]


def test_overwrite_replaces_rows_and_keeps_history(tables: Tables) -> None:
    old = tables.append("raw.x", pa.table({"a": [1]}))
    tables.overwrite("raw.x", pa.table({"a": [9]}))
    assert tables.read("raw.x")["a"].to_pylist() == [9]
    assert tables.read("raw.x", snapshot=old)["a"].to_pylist() == [1]


def test_filters_columns_and_tags(tables: Tables) -> None:
    snapshot = tables.append("raw.x", pa.table({"a": [1, 2], "b": ["x", "y"]}))
    tables.tag("raw.x", snapshot, "model-v1")
    tables.tag("raw.x", snapshot, "model-v1")
    assert tables.table("raw.x").metadata.refs["model-v1"].snapshot_id == snapshot
    assert tables.read("raw.x", columns=["b"], where="a > 1").to_pylist() == [{"b": "y"}]


def test_a_pickled_handle_opens_its_own_connection(tables: Tables) -> None:
    tables.append("raw.x", pa.table({"a": [1]}))
    assert pickle.loads(pickle.dumps(tables)).count("raw.x") == 1


def test_a_table_that_was_never_written_is_named(tables: Tables) -> None:
    assert not tables.exists("raw.nothing")
    assert tables.current("raw.nothing") is None
    with pytest.raises(NotFound, match=r"raw\.nothing"):
        tables.read("raw.nothing")


def test_what_one_commit_added_is_read_alone(tables: Tables) -> None:
    first = tables.append("raw.x", pa.table({"a": [1, 2], "b": ["x", "y"]}))
    second = tables.append("raw.x", pa.table({"a": [3], "b": ["z"]}))
    assert tables.added("raw.x", first, ["a"]).to_pydict() == {"a": [1, 2]}
    assert tables.added("raw.x", second, ["b", "a"]).to_pydict() == {"b": ["z"], "a": [3]}
    assert tables.added("raw.x", 1, ["a"]).num_rows == 0
