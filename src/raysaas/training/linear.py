"""The textbook model, logistic or ridge regression: the baseline, which serves itself when nothing beats it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysaas.models.encode import Encoder
from raysaas.models.fields import Columns
from raysaas.records import Task

# Fitted on at most this many rows and cells, drawn evenly: enough for a linear model, flat in memory.
MAX_ROWS = 200_000
MAX_CELLS = 20_000_000


@dataclass(frozen=True, slots=True)
class Linear:
    """``weight`` [k, width] over ``Encoder.dense`` and ``bias`` [k]; k is the number of classes, else 1."""

    task: Task
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def outputs(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """Probability of the positive label [n], of each class [n, k], or the value [n]."""
        raw = x @ self.weight.T + self.bias
        if self.task is Task.multiclass:
            powers = np.exp(raw - raw.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True))
        value = raw[:, 0]
        return value if self.task is Task.regression else np.asarray(1 / (1 + np.exp(-np.clip(value, -500, 500))))


def fit(task: Task, labels: Sequence[str], encoder: Encoder, train: Columns, y_train: NDArray[Any]) -> Linear:
    """Fit on scaled numbers, missing flags and one-hot categories (``Encoder.plain``) of evenly drawn rows.

    ``y_train`` holds labels as strings (one class only gives that class for ever), or values.
    """
    chosen = _sample(len(y_train), row_limit(encoder))
    x = encoder.dense({name: column[chosen] for name, column in train.items()})[:, encoder.plain]
    y = np.asarray(y_train)[chosen]
    small, bias = _ridge(x, y) if task is Task.regression else _logistic(task, x, y.astype(str), list(labels))
    weight = np.zeros((len(small), encoder.width))
    weight[:, encoder.plain] = small
    return Linear(task, weight, bias)


def row_limit(encoder: Encoder) -> int:
    """How many rows fit into memory at once."""
    return min(MAX_ROWS, max(1000, MAX_CELLS // encoder.width))


def _sample(num_rows: int, limit: int) -> NDArray[np.intp]:
    if num_rows <= limit:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(0).choice(num_rows, limit, replace=False))


def _ridge(x: NDArray[np.float32], y: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.linear_model import Ridge

    fitted = Ridge(alpha=1.0).fit(x.astype(np.float64), y.astype(np.float64))
    return fitted.coef_[None, :], np.array([fitted.intercept_])


def _logistic(
    task: Task, x: NDArray[np.float32], y: NDArray[Any], labels: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from sklearn.linear_model import LogisticRegression

    known = np.unique(y).tolist()
    outputs = len(labels) if task is Task.multiclass else 1
    weight, bias = np.zeros((outputs, x.shape[1])), np.full(outputs, -30.0)
    if len(known) == 1:
        bias[labels.index(known[0]) if outputs > 1 else 0] = 30.0 if known[0] == labels[-1] or outputs > 1 else -30.0
        return weight, bias
    fitted = LogisticRegression(max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        # Stopped early it is still a fair yardstick.
        warnings.simplefilter("ignore")
        fitted.fit(x, y)
    if outputs == 1:
        sign = 1.0 if fitted.classes_[1] == labels[1] else -1.0
        return sign * fitted.coef_, sign * fitted.intercept_
    if len(known) == 2:  # scikit-learn then has one row of coefficients, for the second of the two
        rows, values = np.vstack([np.zeros_like(fitted.coef_), fitted.coef_]), np.array([0.0, fitted.intercept_[0]])
    else:
        rows, values = fitted.coef_, fitted.intercept_
    order = [labels.index(label) for label in known]
    weight[order], bias[order] = rows, values
    return weight, bias
