"""Metrics by group: mature decisions only, against scikit-learn, and numbers that add up."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import orjson
import pyarrow as pa
import pytest
from sklearn import metrics as oracle

from raysaas.drift.cohorts import cohorts
from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.stores.logs import TIME

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DELAY = timedelta(days=30)
LABELS = ("No", "Yes")


def table(num=600, seed=0, **columns):
    rng = np.random.default_rng(seed)
    scores = rng.random(num)
    times = [NOW - timedelta(days=float(age)) for age in rng.uniform(0, 60, num)]
    outcomes = [
        None if rng.random() < 0.3 else "Yes" if rng.random() < score else "No" for score in scores
    ]  # fmt: skip
    base = {
        "id": [f"d{i}" for i in range(num)], "tenant": rng.choice(["acme", "umbrella"], num).tolist(),
        "version": rng.integers(1, 3, num).tolist(), "arm": ["champion"] * num, "score": scores.tolist(),
        "label": [LABELS[int(s >= 0.5)] for s in scores], "outcome": outcomes, "time": pa.array(times, TIME),
        "inputs": [orjson.dumps({"plan": str(p)}).decode() for p in rng.choice(["free", "pro"], num)],
    }  # fmt: skip
    return pa.table(base | columns)


def measure(rows, *by, task=Task.binary, labels=LABELS, window=None):
    return cohorts(rows, by, task, labels, now=NOW, delay=DELAY, window=window)


def test_young_decisions_do_not_count_and_metrics_are_scikit_learns():
    rows = table()
    (total,) = measure(rows)
    old = [row for row in rows.to_pylist() if row["time"] <= NOW - DELAY]
    told = [row for row in old if row["outcome"]]
    assert (total.num_decisions, total.num_mature, total.num_known) == (600, len(old), len(told))
    assert total.num_early == sum(1 for row in rows.to_pylist() if row["outcome"] and row["time"] > NOW - DELAY)
    assert total.maturity == len(told) / len(old)
    truth, scores = [row["outcome"] == "Yes" for row in told], [row["score"] for row in told]
    assert total.metrics["auc"] == pytest.approx(oracle.roc_auc_score(truth, scores))
    assert total.metrics["log_loss"] == pytest.approx(oracle.log_loss(truth, scores))
    assert total.metrics["accuracy"] == pytest.approx(np.mean([row["label"] == row["outcome"] for row in told]))
    assert total.metrics["positive_rate"] == pytest.approx(np.mean(truth))


@pytest.mark.parametrize("by", [("tenant",), ("version", "arm"), ("day",), ("plan",), ("tenant", "plan")])
def test_groups_add_up_and_each_is_the_metric_of_its_own_rows(by):
    rows = table()
    groups, (total,) = measure(rows, *by), measure(rows)
    for name in ("num_decisions", "num_mature", "num_known", "num_early"):
        assert sum(getattr(group, name) for group in groups) == getattr(total, name)
    for group in groups[:3]:
        own = [
            i for i, row in enumerate(rows.to_pylist())
            if all(value == {**{k: str(v) for k, v in row.items()}, **orjson.loads(row["inputs"]),
                             "day": row["time"].date().isoformat()}[name] for name, value in group.group.items())
        ]  # fmt: skip
        (alone,) = measure(rows.take(own))
        assert (alone.metrics, alone.num_known) == (group.metrics, group.num_known)


def test_windows_have_the_asked_length():
    starts = [datetime.fromisoformat(g.group["window"]) for g in measure(table(), window=timedelta(days=7))]
    assert {b - a for a, b in pairwise(starts)} == {timedelta(days=7)}
    assert 8 <= len(starts) <= 10


def test_regression_and_classes_and_what_is_no_label():
    old = pa.array([NOW - 2 * DELAY] * 4, TIME)
    values = table(4, score=[1.0, 2.0, 3.0, 4.0], outcome=["1.5", "2", "nan", None], time=old)
    (total,) = measure(values, task=Task.regression, labels=())
    assert total.metrics == pytest.approx({"rmse": (0.25 / 2) ** 0.5, "mae": 0.25, "bias": -0.25})
    assert (total.num_known, total.num_unusable) == (2, 1)
    classes = table(4, label=["a", "b", "c", "a"], outcome=["a", "c", "c", "new"], time=old)
    (total,) = measure(classes, task=Task.multiclass, labels=("a", "b", "c"))
    assert total.metrics == pytest.approx({"accuracy": 2 / 3})
    assert total.num_unusable == 1


def test_few_outcomes_have_no_auc_and_none_no_metric():
    rows = table(20, time=pa.array([NOW - 2 * DELAY] * 20, TIME))
    assert "auc" not in measure(rows)[0].metrics
    assert measure(rows.slice(0, 0))[0].metrics == {}
    assert measure(rows.slice(0, 0))[0].maturity is None


def test_an_unknown_group_and_too_many_are_said():
    with pytest.raises(InputError, match="no 'paln': choose from tenant, version, arm, day, plan"):
        measure(table(), "paln")
    many = [orjson.dumps({"x": i}).decode() for i in range(10_001)]
    with pytest.raises(InputError, match="10001 groups"):
        measure(table(10_001, inputs=many), "x")
