"""One round at a site, in this process: what the ClientApp does with weights and rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysaas.models import network
from raysaas.models.encode import Encoder
from raysaas.records import Task
from raysaas_edge import client_app, rows
from raysaas_edge.plan import Plan

KINDS = {"x": "number", "c": "category"}


@pytest.fixture
def table() -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=400)
    return pa.table({"x": x, "c": ["a", "b"] * 200, "label": np.where(x > 0, "Yes", "No")})


def _plan(table: pa.Table, **changed: object) -> Plan:
    encoder = Encoder.fit(rows.columns(table, KINDS), KINDS)
    base = {
        "task": Task.binary,
        "encoder": encoder.to_json(),
        "labels": ("No", "Yes"),
        "hidden": (8,),
        "local_epochs": 5,
    }
    return Plan(**(base | {"batch_size": 32, "learning_rate": 0.01} | changed))  # type: ignore[arg-type]


def _weights(plan: Plan, width: int) -> dict[str, np.ndarray]:
    module = network.build(width, plan.num_outputs, plan.hidden, plan.dropout, seed=1)
    return {name: value.numpy().copy() for name, value in module.state_dict().items()}


def test_local_epochs_learn_and_leave_the_received_weights_alone(tmp_path: Path, table: pa.Table) -> None:
    plan = _plan(table)
    pq.write_table(table, tmp_path / "rows.parquet")
    x, y = client_app.load(plan, tmp_path / "rows.parquet")
    weights = _weights(plan, x.shape[1])
    before = {name: value.copy() for name, value in weights.items()}
    trained, loss = client_app.fit(weights, x, y, plan, seed=0)
    _, first = client_app.fit(weights, x, y, _plan(table, local_epochs=1), seed=0)
    assert loss < first < 0.75
    assert all((weights[name] == before[name]).all() for name in weights)
    assert {name: value.shape for name, value in trained.items()} == {n: v.shape for n, v in weights.items()}


def test_the_same_seed_gives_the_same_update(tmp_path: Path, table: pa.Table) -> None:
    plan = _plan(table, dropout=0.2)
    pq.write_table(table, tmp_path / "rows.parquet")
    x, y = client_app.load(plan, tmp_path / "rows.parquet")
    one, two, other = (client_app.fit(_weights(plan, x.shape[1]), x, y, plan, seed=seed)[0] for seed in (3, 3, 4))
    assert all((one[name] == two[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_fedprox_stays_nearer_to_the_received_weights(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "rows.parquet")
    distance = {}
    for mu in (0.0, 5.0):
        plan = _plan(table, mu=mu)
        x, y = client_app.load(plan, tmp_path / "rows.parquet")
        start = _weights(plan, x.shape[1])
        trained, _ = client_app.fit(start, x, y, plan, seed=0)
        distance[mu] = sum(float(((trained[name] - start[name]) ** 2).sum()) for name in start)
    assert distance[5.0] < 0.5 * distance[0.0]
