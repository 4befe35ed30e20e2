"""How good decisions were, once their outcomes are known; pure numpy, no scikit-learn in the actor."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysaas.drift.policy import Drop
from raysaas.records import Task

MAIN = {Task.binary: "auc", Task.multiclass: "accuracy", Task.regression: "rmse"}
MIN_PER_CLASS = 10
_TINY = 1e-7

Floats = NDArray[np.float64]


class Matured(NamedTuple):
    """One decision with its outcome; ``outcome`` is as the application sent it, ``moment`` when it was decided.

    ``observed_us`` and ``known_us`` are when the outcome was observed and when it came.
    """

    score: float
    label: str | None
    outcome: str
    moment: str = ""
    observed_us: int = 0
    known_us: int = 0


def valid(task: Task, labels: Sequence[str], outcome: str) -> bool:
    """Whether ``outcome`` is a label of the model, or a finite number for regression."""
    if task is not Task.regression:
        return outcome in labels
    try:
        return bool(np.isfinite(float(outcome)))
    except ValueError:
        return False


def measure(task: Task, labels: Sequence[str], rows: Sequence[Matured]) -> dict[str, float]:
    """Metrics of matured decisions [n]; empty while a binary model has under 10 outcomes of either class.

    Binary (``labels`` are negative, positive): auc, log_loss. Multi-class: accuracy. Regression: rmse.
    """
    if task is Task.multiclass:
        return {"accuracy": float(np.mean([row.label == row.outcome for row in rows]))}
    scores = np.array([row.score for row in rows], dtype=np.float64)
    if task is Task.regression:
        return {"rmse": float(np.sqrt(np.mean((scores - np.array([float(row.outcome) for row in rows])) ** 2)))}
    positive = np.array([row.outcome == labels[1] for row in rows])
    if min(positive.sum(), (~positive).sum()) < MIN_PER_CLASS:
        return {}
    return {"auc": auc(positive, scores), "log_loss": log_loss(positive, scores)}


def auc(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    >>> auc(np.array([False, True, True]), np.array([0.1, 0.1, 0.9]))
    0.75
    """
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def log_loss(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Mean negative log-likelihood in nats.

    >>> round(log_loss(np.array([True, False]), np.array([0.5, 0.5])), 3)
    0.693
    """
    likelihood = np.where(positive, scores, 1 - scores)
    return float(-np.mean(np.log(np.clip(likelihood, _TINY, 1.0))))


def compare(
    task: Task, labels: Sequence[str], rows: Sequence[Matured], measured: Mapping[str, float],
    reference: Mapping[str, float],
) -> Drop | None:  # fmt: skip
    """The main metric against its reference, with its standard error; None where the reference has no such metric.

    The error of auc is that of Hanley, J. A. and McNeil, B. J. (1982), Radiology 143; rmse is taken relative to its
    reference.
    """
    metric = MAIN[task]
    if metric not in reference or metric not in measured:
        return None
    value, old = measured[metric], reference[metric]
    if task is Task.regression:
        scale = max(old, _TINY)
        squares = np.array([(row.score - float(row.outcome)) ** 2 for row in rows])
        error = float(squares.std() / np.sqrt(len(rows)) / (2 * max(value, _TINY)) / scale)
        return Drop(metric, value, old, (value - old) / scale, error)
    if task is Task.binary:
        error = auc_error(value, sum(row.outcome == labels[1] for row in rows), len(rows))
    else:
        error = float(np.sqrt(value * (1 - value) / len(rows)))
    return Drop(metric, value, old, old - value, error)


def auc_error(area: float, num_positive: int, num_rows: int) -> float:
    """Standard error of :func:`auc` by Hanley and McNeil."""
    num_negative = num_rows - num_positive
    one, two = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (num_positive - 1) * (one - area**2) + (num_negative - 1) * (two - area**2)
    return float(np.sqrt(max(variance, 0.0) / (num_positive * num_negative)))
