"""A small training table with a learnable label, and settings for it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from raysaas.records import Task
from raysaas.settings import Federated, Model, Settings, Storage
from raysaas.use_case import Examples, Source, UseCase

# Machines are shared: a slow example is not a failure.


def training_table(num_rows: int) -> pa.Table:
    """Rows of four tenants in the platform's own columns."""
    random = np.random.default_rng(0)
    usage, plan = random.normal(size=num_rows), random.choice(["basic", "pro"], num_rows)
    chance = 1 / (1 + np.exp(-(2.0 * usage + 1.5 * (plan == "pro") - 0.75)))
    names = [f"e{i}" for i in range(num_rows)]
    times = pa.array(np.arange(num_rows) * 10**6, pa.timestamp("us", "UTC"))
    return pa.table({
        "row_id": names, "tenant": random.choice(["a", "b", "c", "d"], num_rows), "entity": names, "event_time": times,
        "known_at": times, "split": random.choice(["train", "valid", "test"], num_rows, p=[0.6, 0.2, 0.2]),
        "label": np.where(random.random(num_rows) < chance, "Yes", "No"),
        "usage": pa.array(usage, mask=random.random(num_rows) < 0.05), "plan": plan,
        "seats": random.integers(1, 50, num_rows), "trial": random.random(num_rows) < 0.5,
    })  # fmt: skip


@pytest.fixture(scope="session")
def toy_table() -> pa.Table:
    """A training set."""
    return training_table(1500)


@pytest.fixture(scope="session")
def toy_parts(toy_table: pa.Table) -> dict[str, pa.Table]:
    """Its rows by split."""
    return {name: toy_table.filter(pc.equal(toy_table["split"], name)) for name in ("train", "valid", "test")}


@pytest.fixture
def toy_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a use case with a given task and federated keys."""

    def make(task: str = "binary", **federated: object) -> Settings:
        use_case = UseCase(
            name="toy", task=Task(task), sources={"s": Source()}, examples=Examples(source="s", label="label")
        )
        return Settings(
            use_case=use_case, model=Model(hidden=[8]), storage=Storage(home=str(tmp_path / "var")),
            federated=Federated(**federated),  # type: ignore[arg-type]
        )  # fmt: skip

    return make
