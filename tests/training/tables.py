"""Training sets for these tests: a learnable signal in numbers, a category, missing values and a boolean."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from raysaas.records import Task
from raysaas.settings import Settings, Storage
from raysaas.use_case import Examples, Source, UseCase


def training_set(num_rows: int, task: Task = Task.binary, *, seed: int = 0, num_numbers: int = 4) -> pa.Table:
    """Rows in the shape of ``features.build.training_set``: 20 % test, 15 % valid."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(num_rows, num_numbers))
    plan = rng.choice(np.array(["free", "pro", "team"]), num_rows)
    active = rng.random(num_rows) < 0.5
    signal = 2 * numbers[:, 0] - numbers[:, 1] + 1.5 * (plan == "pro") + active + 0.3 * rng.normal(size=num_rows)
    numbers[rng.random(num_rows) < 0.1, 2] = np.nan
    labels = {
        Task.binary: np.where(signal > 1, "Yes", "No").tolist(),
        Task.multiclass: np.array(["low", "mid", "top"])[np.digitize(signal, [0, 2])].tolist(),
        Task.regression: 100 + 10 * signal,
    }
    share = rng.random(num_rows)
    split = np.where(share < 0.2, "test", np.where(share < 0.35, "valid", "train")).tolist()
    times = pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * num_rows, pa.timestamp("us", "UTC"))
    ids = [str(i) for i in range(num_rows)]
    platform = {"row_id": ids, "tenant": ["t"] * num_rows, "entity": ids, "event_time": times, "known_at": times,
                "split": split, "label": labels[task]}  # fmt: skip
    features = {f"n{i}": numbers[:, i] for i in range(num_numbers)} | {"plan": plan.tolist(), "active": active}
    return pa.table({**platform, **features})


def settings(home: str, task: Task = Task.binary) -> Settings:
    """Settings with the defaults of the dataclasses and a use case without data."""
    use_case = UseCase(
        name="toy", task=task, sources={"rows": Source(path="none")}, examples=Examples(source="rows", label="label")
    )
    return Settings(use_case=use_case, storage=Storage(home=home))
