"""Features that know the answer: one column that predicts the label almost perfectly is a mistake until allowed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from raysaas.models.fields import Array, Columns, numbers, texts
from raysaas.records import Task

SAMPLE_ROWS = 4000
MIN_ROWS = 30
FOLDS = 3
# AUC (binary), balanced accuracy (multiclass), R2 of ranks (regression).
THRESHOLDS = {Task.binary: 0.99, Task.multiclass: 0.99, Task.regression: 0.999}


@dataclass(frozen=True, slots=True)
class Leak:
    """A suspicious feature and how well it predicts the label alone."""

    feature: str
    score: float


def leaks(columns: Columns, kinds: Mapping[str, str], y: NDArray[Any], task: Task) -> list[Leak]:
    """Features that alone reach AUC or balanced accuracy 0.99, or R2 0.999 between ranks; strongest first.

    Each column is tried by a small cross-validated decision tree on at most 4,000 rows; a missing value is a value.
    With fewer than 30 rows nothing is said.
    """
    chosen = _sample(np.asarray(y), task)
    target = _target(np.asarray(y)[chosen], task)
    if len(chosen) < MIN_ROWS or len(np.unique(target)) < 2:
        return []
    scores = {name: _score(_column(kinds[name], columns[name][chosen]), target, task) for name in kinds}
    found = [Leak(name, score) for name, score in scores.items() if score >= THRESHOLDS[task]]
    return sorted(found, key=lambda leak: -leak.score)


def _sample(y: NDArray[Any], task: Task) -> NDArray[np.intp]:
    chosen = np.arange(len(y))
    if len(y) > SAMPLE_ROWS:
        chosen = np.random.default_rng(0).choice(len(y), SAMPLE_ROWS, replace=False)
    if task is Task.regression or not len(y):
        return chosen
    # Labels too rare for every fold to hold one prove nothing about a column.
    _, codes, counts = np.unique(y[chosen].astype(str), return_inverse=True, return_counts=True)
    return chosen[counts[codes] >= FOLDS]


def _target(y: NDArray[Any], task: Task) -> NDArray[Any]:
    if task is Task.regression:
        return np.asarray(rankdata(y.astype(np.float64)))
    codes: NDArray[Any] = np.unique(y.astype(str), return_inverse=True)[1]
    return codes


def _column(kind: str, column: Array) -> NDArray[np.float32]:
    if kind == "category":
        items = np.array([item if item is not None else "\0missing" for item in texts(column)])
        _, values, counts = np.unique(items, return_inverse=True, return_counts=True)
        # Rare levels cannot be told apart from noise, and an id is all rare levels.
        return np.where(counts[values] >= 3, values, -1).astype(np.float32)[:, None]
    # Ranks keep the order that trees need and fit float32; missing stays missing.
    return np.asarray(rankdata(numbers(column), method="dense", nan_policy="omit"), dtype=np.float32)[:, None]


def _score(x: NDArray[np.float32], target: NDArray[Any], task: Task) -> float:
    if len(np.unique(x[:, 0], equal_nan=True)) < 2:
        return 0.0
    tree: Any
    if task is Task.regression:
        tree = DecisionTreeRegressor(min_samples_leaf=2, random_state=0)
        folds: Any = KFold(FOLDS, shuffle=True, random_state=0)
    else:
        tree = DecisionTreeClassifier(max_depth=8, min_samples_leaf=5, random_state=0)
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    # A tree does no better on new rows than on its own: most columns are cleared by one fit.
    fitted = _measure(task, target, _guess(tree.fit(x, target), x, task))
    if fitted < THRESHOLDS[task]:
        return fitted
    guess = np.empty(len(target))
    for train, test in folds.split(x, target):
        guess[test] = _guess(tree.fit(x[train], target[train]), x[test], task)
    return _measure(task, target, guess)


def _guess(tree: Any, x: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    return np.asarray(tree.predict_proba(x)[:, 1] if task is Task.binary else tree.predict(x), dtype=np.float64)


def _measure(task: Task, target: NDArray[Any], guess: NDArray[np.float64]) -> float:
    measure: Any = {
        Task.binary: roc_auc_score, Task.multiclass: balanced_accuracy_score, Task.regression: r2_score,
    }[task]  # fmt: skip
    return float(measure(target, guess))
