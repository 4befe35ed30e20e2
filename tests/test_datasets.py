"""Versions of a dataset over real Iceberg tables: what each holds, and what changed between two."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from pyiceberg.types import LongType

from raysaas.datasets import versions as datasets
from raysaas.errors import ConfigError, NotFound
from raysaas.settings import Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import Examples, Source, UseCase

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ORDERS = "raw.shop__orders"


def settings(home: Path, unique: list[str] | None = None) -> Settings:
    case = UseCase(
        name="shop",
        sources={"orders": Source(path="x", unique=unique or [])},
        examples=Examples(source="orders", label="y"),
    )
    return Settings(use_case=case, storage=Storage(home=str(home)))


def orders(keys: list[str], amounts: list[float | None], plan: str = "basic", row: str = "r") -> pa.Table:
    return pa.table({
        "row_id": [f"{row}{key}" for key in keys], "tenant": ["t"] * len(keys), "order": keys,
        "amount": pa.array(amounts, pa.float64()), "plan": [plan] * len(keys), "known_at": [T0] * len(keys),
    })  # fmt: skip


def test_the_log_says_what_each_version_added_and_who_keeps_it(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    tables = Tables(shop.storage)
    digest = "a" * 64
    told = {"raysaas.files": json.dumps([digest, "b" * 64]), "raysaas.uris": json.dumps([[digest, "/in/a.csv"]]),
            "raysaas.read": "3", "raysaas.quarantined": "1"}  # fmt: skip
    first = tables.append(ORDERS, orders(["1", "2"], [1.0, 2.0]), told)
    second = tables.append(ORDERS, orders(["3"], [3.0]))
    tables.tag(ORDERS, first, "shop-v1")
    one, two = datasets.log(shop, "orders")["versions"]
    assert one.pop("committed_at") <= two.pop("committed_at")
    assert one == {
        "snapshot_id": first, "operation": "append", "rows_added": 2, "rows": 2, "read": 3, "quarantined": 1,
        "files": ["/in/a.csv", f"file:{'b' * 64}"], "kept_by": ["shop-v1"],
    }  # fmt: skip
    assert two == {
        "snapshot_id": second, "operation": "append", "rows_added": 1, "rows": 3, "files": [], "kept_by": [],
    }  # fmt: skip
    assert datasets.log(shop, ORDERS)["versions"] == datasets.log(shop, "orders")["versions"]


def test_a_version_is_shown_in_numbers_and_rows(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    Tables(shop.storage).append(ORDERS, orders(["1", "2", "3", "4"], [2.0, None, 5.0, 2.0]))
    shown = datasets.show(shop, "orders", rows=2)
    columns = {column.pop("column"): column for column in shown["columns"]}
    assert columns["amount"] == {"type": "double", "nulls": 1, "min": 2.0, "max": 5.0, "distinct": 2}
    assert columns["order"] == {"type": "string", "nulls": 0, "min": "1", "max": "4", "distinct": 4}
    assert columns["known_at"]["min"] == T0
    assert (shown["rows"], [row["order"] for row in shown["first_rows"]]) == (4, ["1", "2"])


def test_a_version_is_named_by_id_prefix_model_version_or_time(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    tables = Tables(shop.storage)
    first, second = (tables.append(ORDERS, orders([key], [1.0])) for key in "12")
    tables.tag(ORDERS, first, "shop-v7")
    times = [item["committed_at"] for item in tables.snapshots(ORDERS)]
    forms = {
        "orders": second, f"orders@{first}": first, f"orders@{str(second)[:10]}": second, "orders@v7": first,
        f"orders@{times[0].isoformat()}": first, "orders@2999-01-01": second,
    }  # fmt: skip
    assert {text: datasets.show(shop, text)["snapshot_id"] for text in forms} == forms
    for text in ("v8", "2001-01-01", "newest"):
        with pytest.raises(NotFound, match=rf"has no version '{text}': expected a snapshot id"):
            datasets.show(shop, f"orders@{text}")
    shared = next(n for n in range(20) if str(first)[:n] != str(second)[:n]) - 1
    if shared:
        with pytest.raises(ConfigError, match="may be any of 2"):
            datasets.show(shop, f"orders@{str(first)[:shared]}")


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    with pytest.raises(NotFound, match="Source 'orders' of shop has no version yet"):
        datasets.log(shop, "orders")
    Tables(shop.storage).append("log.decisions", pa.table({"id": ["d"]}))
    with pytest.raises(NotFound, match="did you mean 'orders'"):
        datasets.log(shop, "order")
    with pytest.raises(NotFound, match=r"did you mean 'log\.decisions'"):
        datasets.log(shop, "log.decision")


def test_rows_are_compared_by_the_key_of_the_source(tmp_path: Path) -> None:
    shop = settings(tmp_path, unique=["order"])
    tables = Tables(shop.storage)
    old = tables.append(ORDERS, orders(["1", "2", "3"], [1.0, 2.0, None]))
    new = tables.overwrite(ORDERS, orders(["2", "3", "4", "5"], [2.5, None, 4.0, 5.0], row="other"))
    told = datasets.diff(shop, "orders", str(old), str(new), examples=1)
    assert (told["a"], told["b"]) == ({"snapshot_id": old, "rows": 3}, {"snapshot_id": new, "rows": 4})
    rows = told["rows"]
    assert {key: rows[key] for key in ("key", "added", "removed", "changed")} == {
        "key": ["tenant", "order"], "added": 2, "removed": 1, "changed": 1,
    }  # fmt: skip
    assert rows["examples"] == {
        "added": [{"tenant": "t", "order": "4", "amount": 4.0, "plan": "basic"}],
        "removed": [{"tenant": "t", "order": "1", "amount": 1.0, "plan": "basic"}],
        "changed": [{"tenant": "t", "order": "2", "amount": [2.0, 2.5]}],
    }


def test_a_table_of_keys_alone_differs_by_how_often_they_come(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    tables = Tables(shop.storage)
    old = tables.append(ORDERS, pa.table({"row_id": ["1", "2"]}))
    new = tables.append(ORDERS, pa.table({"row_id": ["1"]}))
    rows = datasets.diff(shop, "orders", str(old), str(new))["rows"]
    assert (rows["added"], rows["removed"], rows["changed"]) == (0, 0, 2)


def test_columns_that_came_went_or_are_of_another_type(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    tables = Tables(shop.storage)
    old = tables.append(ORDERS, pa.table({"row_id": ["1"], "n": pa.array([1], pa.int32()), "gone": [1.0]}))
    with tables.table(ORDERS).update_schema() as update:
        update.update_column("n", field_type=LongType())
        update.delete_column("gone")
    new = tables.append(ORDERS, pa.table({"row_id": ["2"], "n": pa.array([2], pa.int64()), "came": ["x"]}))
    assert datasets.diff(shop, "orders", str(old), str(new))["columns"] == {
        "added": [{"column": "came", "type": "string"}], "removed": [{"column": "gone", "type": "double"}],
        "retyped": [{"column": "n", "from": "int32", "to": "int64"}],
    }  # fmt: skip


def test_shift_is_large_where_a_distribution_moved_and_nothing_elsewhere(tmp_path: Path) -> None:
    shop = settings(tmp_path)
    tables, draw = Tables(shop.storage), np.random.default_rng(0)

    def batch(mean: float, plans: str) -> pa.Table:
        size = 4000
        return pa.table({
            "row_id": [str(n) for n in range(size)],
            "moved": draw.normal(mean, 1, size), "same": draw.normal(0, 1, size),
            "plan": draw.choice(list(plans), size), "none": pa.nulls(size, pa.float64()),
            "nan": np.where(draw.random(size) < 0.2 + mean / 4, np.nan, 1.0), "it's": ["o'clock"] * size,
        })  # fmt: skip

    old, new = tables.append(ORDERS, batch(0, "ab")), tables.overwrite(ORDERS, batch(1, "abc"))
    found = {shift["column"]: shift for shift in datasets.diff(shop, "orders", str(old), str(new))["shift"]}
    assert next(iter(found)) == "plan", "a new value is the strongest"
    assert found["moved"]["excess"] > 0.5
    assert found["nan"]["excess"] > 0.2
    assert found["nan"]["missing"] == pytest.approx([0.2, 0.45], abs=0.03)
    assert abs(found["same"]["excess"]) < 0.01
    assert found["none"]["psi"] == found["it's"]["psi"] == 0.0
    assert found["none"]["missing"] == [1.0, 1.0]
    assert found["same"]["rows"] == [4000, 4000]


cells = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([None, 0.0, 1.0, 2.0])), max_size=8)


@hypothesis(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=cells, after=cells)
def test_counts_equal_those_of_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, before: list[Any], after: list[Any]
) -> None:
    shop = settings(tmp_path_factory.mktemp("loop"), unique=["order"])
    tables = Tables(shop.storage)
    empty = orders([], [])
    old = tables.append(ORDERS, orders(*(list(x) for x in zip(*before, strict=True))) if before else empty)
    new = tables.overwrite(ORDERS, orders(*(list(x) for x in zip(*after, strict=True))) if after else empty)
    rows = datasets.diff(shop, "orders", str(old), str(new))["rows"]

    def contents(side: list[Any], key: str) -> list[Any]:
        return sorted((repr(value) for name, value in side if name == key))

    keys = {name for name, _ in before} | {name for name, _ in after}
    told = {key: (contents(before, key), contents(after, key)) for key in keys}
    assert rows["added"] == sum(len(b) for a, b in told.values() if not a)
    assert rows["removed"] == sum(len(a) for a, b in told.values() if not b)
    assert rows["changed"] == sum(max(len(a), len(b)) for a, b in told.values() if a and b and a != b)
