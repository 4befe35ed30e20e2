"""Metrics of matured decisions against scikit-learn, and their standard errors against simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from raysaas.drift.performance import Matured, auc, compare, log_loss, measure, valid
from raysaas.records import Task

LABELS = ("no", "yes")
PAIRS = st.lists(st.tuples(st.booleans(), st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=80)


@given(pairs=PAIRS.filter(lambda pairs: len({yes for yes, _ in pairs}) == 2))
def test_auc_and_log_loss_are_scikit_learns(pairs):
    positive, scores = np.array([yes for yes, _ in pairs]), np.array([score for _, score in pairs])
    assert auc(positive, scores) == pytest.approx(metrics.roc_auc_score(positive, scores))
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    assert log_loss(positive, scores) == pytest.approx(metrics.log_loss(positive, clipped), abs=1e-5)


def test_binary_waits_for_both_classes():
    rows = [Matured(0.5, "no", "no")] * 200 + [Matured(0.5, "yes", "yes")] * 9
    assert measure(Task.binary, LABELS, rows) == {}
    assert measure(Task.binary, LABELS, [*rows, rows[-1]])["auc"] == 0.5


@pytest.mark.parametrize(("task", "labels", "outcome", "expected"), [
    (Task.binary, LABELS, "yes", True), (Task.binary, LABELS, "maybe", False), (Task.regression, (), "1e3", True),
    (Task.regression, (), "nan", False), (Task.regression, (), "many", False), (Task.multiclass, ("a", "b"), "a", True),
])  # fmt: skip
def test_valid_outcomes(task, labels, outcome, expected):
    assert valid(task, labels, outcome) is expected


def test_regression_drop_is_relative_and_better_is_negative():
    rows = [Matured(float(i), None, str(i + (3 if i % 2 else -3))) for i in range(200)]
    measured = measure(Task.regression, (), rows)
    assert measured == {"rmse": 3.0}
    drop = compare(Task.regression, (), rows, measured, {"rmse": 2.0})
    assert (drop.loss, drop.error) == (0.5, 0.0)
    assert compare(Task.regression, (), rows, measured, {"rmse": 4.0}).loss < 0
    assert compare(Task.regression, (), rows, measured, {"mae": 4.0}) is None


def test_multiclass_drop_is_of_accuracy():
    rows = [Matured(0.9, "a", "a")] * 60 + [Matured(0.9, "a", "b")] * 40
    drop = compare(Task.multiclass, ("a", "b"), rows, measure(Task.multiclass, ("a", "b"), rows), {"accuracy": 0.8})
    assert (drop.loss, drop.error) == pytest.approx((0.2, 0.049), abs=1e-3)


def test_auc_error_is_about_the_spread_over_windows():
    rng = np.random.default_rng(0)

    def window():
        yes = rng.random(200) < 0.3
        return [Matured(s, None, LABELS[int(y)]) for y, s in zip(yes, rng.normal(yes * 1.0, 1), strict=True)]

    drops = [compare(Task.binary, LABELS, rows, measure(Task.binary, LABELS, rows), {"auc": 0.76})
             for rows in (window() for _ in range(300))]  # fmt: skip
    assert np.mean([drop.error for drop in drops]) == pytest.approx(np.std([drop.value for drop in drops]), rel=0.25)
