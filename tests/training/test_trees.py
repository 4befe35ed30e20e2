"""Growing trees in this process: they match scikit-learn's boosting, are deterministic, and scale down to few rows."""

import lightgbm
import numpy as np
import pyarrow as pa
import pytest
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score, root_mean_squared_error
from tests.training.tables import settings, training_set

from raysaas.records import Task
from raysaas.settings import Model
from raysaas.training import boosting, runs
from raysaas.training.arrays import columns, part
from raysaas.training.trees import plan_of, tree_params


def _table(name: str, task: Task) -> pa.Table:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    split = np.random.default_rng(0).choice(["train", "valid", "test"], len(y), p=[0.6, 0.15, 0.25]).tolist()
    label = pa.array(y, pa.float64()) if task is Task.regression else pa.array(y.astype(str).tolist())
    return pa.table({"split": split, "label": label, **{f"f{i}": column for i, column in enumerate(x.T)}})


def _grown(table: pa.Table, task: Task) -> tuple[boosting.TreePlan, int, np.ndarray]:
    chosen = settings("/nowhere", task)
    rows = part(table, "train", "valid")
    plan = plan_of(chosen, runs.prepare(chosen, table), rows)
    rounds, text = boosting.grow(plan, rows)
    booster = lightgbm.Booster(model_str=text)
    assert booster.num_trees() == rounds * max(1, len(plan.target.labels) if task is Task.multiclass else 1)
    return plan, rounds, np.asarray(booster.predict(plan.encoder.matrix(columns(part(table, "test")))))


def test_few_rows_match_boosting_in_classification() -> None:
    table = _table("breast_cancer", Task.binary)
    plan, _, ours = _grown(table, Task.binary)
    train, test = part(table, "train", "valid"), part(table, "test")
    oracle = HistGradientBoostingClassifier(random_state=0)
    oracle.fit(plan.encoder.matrix(columns(train)), plan.target.encode(train))
    theirs = oracle.predict_proba(plan.encoder.matrix(columns(test)))[:, 1]
    truth = plan.target.encode(test)
    assert roc_auc_score(truth, ours) >= roc_auc_score(truth, theirs) - 0.005


def test_few_rows_match_boosting_in_regression() -> None:
    table = _table("diabetes", Task.regression)
    plan, _, ours = _grown(table, Task.regression)
    train, test = part(table, "train", "valid"), part(table, "test")
    oracle = HistGradientBoostingRegressor(random_state=0)
    oracle.fit(plan.encoder.matrix(columns(train)), plan.target.encode(train, scaled=False))
    theirs = oracle.predict(plan.encoder.matrix(columns(test)))
    truth = plan.target.encode(test, scaled=False)
    assert root_mean_squared_error(truth, ours) <= 1.01 * root_mean_squared_error(truth, theirs)


def test_early_stopping_takes_over_where_there_are_rows() -> None:
    table = training_set(5000)
    plan, rounds, scores = _grown(table, Task.binary)
    assert not plan.cross_validate
    assert rounds < plan.num_trees
    assert roc_auc_score(plan.target.encode(part(table, "test")), scores) > 0.93


def test_several_classes_give_probabilities_and_the_same_model_each_time() -> None:
    table = training_set(400, Task.multiclass)
    _, first, scores = _grown(table, Task.multiclass)
    _, second, again = _grown(table, Task.multiclass)
    assert first == second
    np.testing.assert_array_equal(scores, again)
    np.testing.assert_allclose(scores.sum(axis=1), 1)


@pytest.mark.parametrize(("num_rows", "leaves", "in_leaf"), [(50, 4, 5), (3000, 10, 20), (1_000_000, 31, 20)])
def test_trees_grow_with_the_rows(num_rows: int, leaves: int, in_leaf: int) -> None:
    params = tree_params(Model(), num_rows)
    assert (params["num_leaves"], params["min_data_in_leaf"]) == (leaves, in_leaf)
