"""Leaks are found whatever they look like; honest strong features are left alone."""

import time

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from raysaas.records import Task
from raysaas.training.leaks import leaks

RNG = np.random.default_rng(0)
NUM_ROWS = 2000
SIGNAL = RNG.normal(size=NUM_ROWS)
YES = np.where(SIGNAL + RNG.normal(size=NUM_ROWS) > 1, "yes", "no")
LEAKS = {
    "copy": (np.where(YES == "yes", "churned", "stayed").astype(object), "category"),
    "almost a copy": (np.where(RNG.random(NUM_ROWS) < 0.002, 0.5, YES == "yes"), "boolean"),
    "only where yes": (np.where(YES == "yes", RNG.normal(size=NUM_ROWS), np.nan), "number"),
    "reason, empty where no": (np.where(YES == "yes", RNG.choice(["price", "bug"], NUM_ROWS), None), "category"),
    "noisy": ((YES == "yes") * 10 + RNG.normal(size=NUM_ROWS), "number"),
}
HONEST = {
    "signal": (SIGNAL, "number"),
    "id": (np.array([f"user-{i}" for i in range(NUM_ROWS)], dtype=object), "category"),
    "row": (np.arange(NUM_ROWS, dtype=float), "integer"),
    "constant": (np.ones(NUM_ROWS), "number"),
    "empty": (np.full(NUM_ROWS, np.nan), "number"),
    "gone": (np.array([None] * NUM_ROWS, dtype=object), "category"),
    "mostly right": (np.where(RNG.random(NUM_ROWS) < 0.1, YES == "no", YES == "yes").astype(float), "boolean"),
}


def test_binary_leaks_are_found_and_honest_features_are_not() -> None:
    both = LEAKS | HONEST
    columns, kinds = ({name: pair[i] for name, pair in both.items()} for i in (0, 1))
    found = leaks(columns, kinds, YES, Task.binary)
    assert {leak.feature for leak in found} == set(LEAKS)
    assert [leak.score for leak in found] == sorted((leak.score for leak in found), reverse=True)


def test_multiclass_leaks() -> None:
    y = RNG.choice(["a", "b", "c"], NUM_ROWS)
    columns = {"copy": np.char.upper(y).astype(object), "code": np.searchsorted(["a", "b", "c"], y).astype(float)}
    columns["half"] = np.where(RNG.random(NUM_ROWS) < 0.5, columns["code"], 0.0)
    kinds = {"copy": "category", "code": "integer", "half": "number"}
    assert {leak.feature for leak in leaks(columns, kinds, y, Task.multiclass)} == {"copy", "code"}


def test_regression_leaks_on_any_scale_but_not_last_hours_value() -> None:
    y = np.exp(np.cumsum(RNG.normal(size=6000)) * 0.05 + RNG.normal(size=6000) * 0.3)
    columns = {"scaled": y * 1.2 + 3, "log": np.log(y), "negative": -(y**3), "lag": np.roll(y, 1)}
    columns["estimate"] = y * np.exp(RNG.normal(size=6000) * 0.05)
    found = leaks(columns, dict.fromkeys(columns, "number"), y, Task.regression)
    assert {leak.feature for leak in found} == {"scaled", "log", "negative"}


@pytest.mark.parametrize(
    ("load", "task"),
    [
        (load_iris, Task.multiclass),
        (load_wine, Task.multiclass),
        (load_breast_cancer, Task.binary),
        (load_diabetes, Task.regression),
    ],
)
def test_public_sets_have_none(load: object, task: Task) -> None:
    data = load()
    columns = {f"f{i}": column.astype(float) for i, column in enumerate(data.data.T)}
    y = data.target.astype(float) if task is Task.regression else data.target.astype(str)
    assert leaks(columns, dict.fromkeys(columns, "number"), y, task) == []


def test_too_few_rows_or_one_class_say_nothing() -> None:
    few = {"x": np.arange(10.0)}
    assert leaks(few, {"x": "number"}, np.array(["a"] * 5 + ["b"] * 5), Task.binary) == []
    assert leaks({"x": SIGNAL}, {"x": "number"}, np.array(["a"] * NUM_ROWS), Task.binary) == []


def test_a_label_seen_once_does_not_stop_the_search() -> None:
    y = YES.copy()
    y[0] = "maybe"
    assert [leak.feature for leak in leaks({"x": SIGNAL}, {"x": "number"}, y, Task.multiclass)] == []


def test_a_wide_table_takes_seconds() -> None:
    columns = {f"f{i}": RNG.normal(size=NUM_ROWS) for i in range(100)}
    start = time.perf_counter()
    assert leaks(columns, dict.fromkeys(columns, "number"), YES, Task.binary) == []
    # Measured 0.9 s; the bound only catches a change of order on a busy machine.
    assert time.perf_counter() - start < 10
