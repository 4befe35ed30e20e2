"""The offline store fanned out over Ray, and the repository that a use case leaves to Feast's own tools."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureStore
from tests.features.worlds import NOW, STAMP, raw, world

from raysaas.features.asof import asof_join, window_aggregates
from raysaas.features.build import materialize, training_set
from raysaas.features.fanout import partitioned
from raysaas.settings import Settings, Storage
from raysaas.stores.datafiles import data_files
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, Examples, Source, UseCase
from raysaas.view import View

KEYS = ["tenant", "number"]
JOINS: dict[str, Callable[[pa.Table, pa.Table], pa.Table]] = {
    "asof": partial(asof_join, keys=KEYS, known_by_event=True),
    "windows": partial(window_aggregates, keys=KEYS, windows=[pd.Timedelta(4, "s").to_pytimedelta()],
                       aggregates=["count", "sum:x", "mean:x", "last:x", "since_last"]),
}  # fmt: skip


def keyed(size: int, seed: int, number: pa.DataType, **columns: Any) -> pa.Table:
    """Few keys and few times, so that ties are common; some keys are null."""
    rng = np.random.default_rng(seed)
    tenants = pa.array(rng.choice(["t", "u", "süß"], size), mask=rng.random(size) < 0.1)
    numbers = pa.array(rng.integers(0, 40, size)).cast(number)
    return pa.table({"tenant": tenants, "number": numbers,
                     "event_time": pa.array(rng.integers(0, 20, size) * 10**6, STAMP), **columns})  # fmt: skip


@pytest.fixture
def sides(tmp_path: Path) -> tuple[pa.Table, pa.Table, Any]:
    """Asking rows, offered rows, and the same offered rows as five data files; keys of equal worth differ in type."""
    rng = np.random.default_rng(3)
    known = pa.array(rng.integers(0, 25, 3000) * 10**6, STAMP)
    rows = keyed(3000, 2, pa.int64(), known_at=known, x=rng.random(3000), s=[f"s{n}" for n in range(3000)])
    asks = keyed(500, 1, pa.float64())
    tables = Tables(Storage(home=str(tmp_path / "var")))
    for start in range(0, 3000, 600):
        tables.append("features.v", rows.slice(start, 600))
    files = data_files(tables, "features.v", columns=rows.column_names)
    assert (len(files.parts()), files.num_rows) == (5, 3000)
    return asks, files.read(), files


@pytest.mark.parametrize("name", JOINS)
def test_a_fanned_out_join_equals_the_one_in_process(
    ray_cluster: SimpleNamespace, sides: tuple[pa.Table, pa.Table, Any], name: str
) -> None:
    asks, rows, files = sides
    expected = JOINS[name](asks, rows).combine_chunks()
    for offered in (rows, files):
        over_ray = partitioned(JOINS[name], asks, offered, keys=KEYS, partitions=2, max_rows=800)
        assert over_ray.combine_chunks().equals(expected)


def test_files_and_partitions_are_read_by_workers_not_here(
    ray_cluster: SimpleNamespace, sides: tuple[pa.Table, pa.Table, Any]
) -> None:
    asks, _, files = sides

    def sizes(asking: pa.Table, offered: pa.Table) -> pa.Table:
        import os

        return asking.append_column("n", pa.array([offered.num_rows] * asking.num_rows)).append_column(
            "pid", pa.array([os.getpid()] * asking.num_rows)
        )

    found = partitioned(sizes, asks, files, keys=KEYS, partitions=2, max_rows=800)
    import os

    assert os.getpid() not in found["pid"].to_pylist()
    # 3,500 rows make five partitions of about 700; equal keys share one.
    assert max(found["n"].to_pylist()) < 1500
    groups = found.group_by(KEYS).aggregate([("n", "count_distinct")])
    assert set(groups["n_count_distinct"].to_pylist()) == {1}


VIEWS = {
    "sums": View(source="log", windows_days=[2, 9], aggregates=["sum:x", "count"],
                 ratios={"mean_x_9d": ["sum_x_9d", "count_9d"]}, differences={"older": ["count_9d", "count_2d"]}),
    "now": View(source="log", columns=["x"], lags={"x": [1]}, differences={"step": ["x", "x_lag_1"]}),
}  # fmt: skip
MADE = ["sum_x_2d", "sum_x_9d", "count_2d", "count_9d", "mean_x_9d", "older", "x", "x_lag_1", "step"]


@pytest.fixture
def built(tmp_path: Path) -> tuple[Settings, pa.Table]:
    """A training set and the online rows of a use case with every kind of definition."""
    columns = {"x": Column(), "y": Column()}
    case = UseCase(
        name="made", sources={"log": Source(entity="id", tenant="of", time="at", columns=columns)}, views=VIEWS,
        examples=Examples(source="log", label="y"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    rows = [{"entity": f"e{n % 8}", "at": n / 10, "x": float(rng.integers(0, 5)), "y": n % 2} for n in range(120)]
    settings, tables = world(tmp_path / "var", case, log=raw(rows))
    _, table = training_set(settings, tables, now=NOW)
    assert materialize(settings, tables, NOW) == 8
    return settings, table


def test_definitions_are_features_in_training_and_online_alike(built: tuple[Settings, pa.Table]) -> None:
    settings, table = built
    assert set(MADE) <= set(table.column_names)
    for row in table.to_pylist():
        own = [other for other in table.to_pylist() if other["entity"] == row["entity"]]
        earlier = [other for other in own if other["event_time"] < row["event_time"]]
        assert row["x_lag_1"] == (max(earlier, key=lambda o: o["event_time"])["x"] if earlier else None)
        assert row["step"] == (row["x"] - row["x_lag_1"] if earlier else None)
        assert row["mean_x_9d"] == row["sum_x_9d"] / row["count_9d"]
        assert row["older"] == row["count_9d"] - row["count_2d"]
    store = FeatureStore(repo_path=f"{settings.storage.home}/feast/made")
    features = {field.name for view in store.list_feature_views() for field in view.features}
    service = store.get_feature_service("made")
    assert features == {f.name for p in service.feature_view_projections for f in p.features} == set(MADE)
    online = store.get_online_features(service, [{"tenant": "t", "entity": "e3"}]).to_dict()
    last = max((row for row in table.to_pylist() if row["entity"] == "e3"), key=lambda row: row["event_time"])
    assert {name: online[name][0] for name in ("x", "x_lag_1", "step")} == {
        name: last[name] for name in ("x", "x_lag_1", "step")
    }
    assert online["mean_x_9d"][0] == online["sum_x_9d"][0] / online["count_9d"][0]


STOCK = """
import json, sys
from datetime import datetime, timezone
import pandas as pd
from feast import FeatureStore
store = FeatureStore(repo_path=sys.argv[1])
service = store.get_feature_service("made")
frame = pd.DataFrame({"tenant": "t", "entity": ["e3", "nobody"], "event_time": pd.to_datetime([sys.argv[2]] * 2)})
past = store.get_historical_features(frame, service).to_df()
now = store.get_online_features(service, [{"tenant": "t", "entity": e} for e in ("e3", "nobody")]).to_dict()
print(json.dumps({"past": past["x"].tolist(), "now": now["x"], "columns": list(past.columns)}))
"""


def test_the_feast_cli_and_a_stock_sdk_work_on_the_repository(built: tuple[Settings, pa.Table]) -> None:
    settings, table = built
    folder = f"{settings.storage.home}/feast/made"
    row = max((row for row in table.to_pylist() if row["entity"] == "e3"), key=lambda row: row["event_time"])
    feast = str(Path(sys.executable).parent / "feast")

    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout

    listed = said(feast, "-c", folder, "feature-views", "list")
    assert "made__sums" in listed
    assert "made__now" in listed
    dumped = json.loads(said(feast, "-c", folder, "registry-dump"))
    assert dumped["project"] == "made"
    assert [service["spec"]["name"] for service in dumped["featureServices"]] == ["made"]
    answer = json.loads(said(sys.executable, "-c", STOCK, folder, row["event_time"].isoformat()).splitlines()[-1])
    assert set(MADE) <= set(answer["columns"])
    assert answer["now"] == [row["x"], None]
    assert answer["past"][0] == row["x"]
    assert answer["past"][1] != answer["past"][1]
