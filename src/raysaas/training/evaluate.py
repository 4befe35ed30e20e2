"""How good a model is, against what, and whether that is good enough to answer requests."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from raysaas.models.encode import Encoder
from raysaas.models.fields import Columns
from raysaas.models.scorers import Prediction, decide
from raysaas.records import Family, Task
from raysaas.settings import ReleasePolicy
from raysaas.training import linear
from raysaas.training.leaks import Leak, leaks

__all__ = ["Candidate", "Gate", "Leak", "baseline", "gate", "leaks", "main_metric", "metrics"]

Metrics = dict[str, float]


class Fitted(Protocol):
    """What the gate and the registry need of a fitted model, whichever room it comes from."""

    @property
    def family(self) -> Family: ...

    @property
    def path(self) -> Path: ...

    @property
    def digest(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, float]: ...

    @property
    def baseline(self) -> Mapping[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A fitted model in its bundle folder; ``metrics`` and ``baseline`` are on the held-back test rows."""

    family: Family
    path: Path
    digest: str
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    num_rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a candidate may answer, and the reason in one sentence."""

    released: bool
    reason: str


def main_metric(task: Task) -> tuple[str, bool]:
    """The metric that decides, and whether higher is better."""
    return {Task.binary: ("auc", True), Task.multiclass: ("accuracy", True), Task.regression: ("rmse", False)}[task]


def metrics(task: Task, y_true: NDArray[Any], prediction: Prediction) -> Metrics:
    """Test metrics of n rows: ``y_true`` holds labels as strings, or values.

    binary: auc, average_precision, log_loss, brier, accuracy; multiclass: accuracy, macro_f1, log_loss; regression:
    rmse, mae, r2; and the standard error of the main one: auc_se (Hanley and McNeil 1982), accuracy_se, rmse_se. What
    cannot be computed (one class only, no rows) is NaN.

    ``chance`` is the main metric of the best constant prediction for these very rows (auc 0.5, the commonest label, the
    mean) and ``chance_se`` the standard error of the difference to it, row by row; multiclass has chance_log_loss and
    chance_log_loss_se too, of the shares of the labels.
    """
    if task is Task.regression:
        return _regression(np.asarray(y_true, dtype=np.float64), prediction.score)
    truth = np.asarray(y_true).astype(str)
    return _binary(truth, prediction) if task is Task.binary else _multiclass(truth, prediction)


def baseline(
    task: Task,
    labels: Sequence[str],
    encoder: Encoder,
    train: Columns,
    y_train: NDArray[Any],
    test: Columns,
    y_test: NDArray[Any],
) -> Metrics:
    """Test metrics of the textbook model that any other must beat: logistic regression, or ridge for regression.

    ``labels`` as in the bundle; ``y`` as in ``metrics``. See linear.py for what it sees.
    """
    model = linear.fit(task, labels, encoder, train, y_train)
    size, outputs = linear.row_limit(encoder), []
    for start in range(0, max(len(y_test), 1), size):
        outputs.append(model.outputs(encoder.dense({name: c[start : start + size] for name, c in test.items()})))
    return metrics(task, y_test, decide(task, labels, np.concatenate(outputs)))


def gate(
    task: Task,
    candidate: Mapping[str, float],
    baseline: Mapping[str, float],
    champion: Mapping[str, float] | None,
    leaks: Sequence[str],
    policy: ReleasePolicy,
    *,
    is_baseline: bool = False,
) -> Gate:
    """Release only what beats guessing, the baseline and the champion in the main metric on the same held-back rows.

    A constant prediction must be beaten by more than one standard error of the difference (metrics without ``chance``
    are not asked). A multiclass model may do so in log loss instead: where one label is most of the rows, probabilities
    can be worth much although the commonest label is nearly always the best guess.

    A tie with the baseline passes, since on small data a good model may only match a linear one: within
    ``baseline_tolerance``, or within half the metric's standard error where that is more (about one standard error of
    the difference of two models on the same rows, which correlate). The champion must be beaten by more than
    ``min_gain``. Gains are absolute for scores, relative for rmse. ``champion`` is None when there is none
    yet; ``leaks`` are leaking features that the use case does not allow; ``is_baseline`` says that the candidate is the
    baseline itself.
    """
    name, _ = main_metric(task)
    nan = float("nan")
    if leaks:
        return Gate(
            False,
            f"Refused: {', '.join(leaks)} predicts the label almost perfectly, which looks like a leak: drop it from "
            "the features or name it in use_case.allow_leaks.",
        )  # fmt: skip
    said = f"{name} {candidate.get(name, nan):.4f}"
    if guess := _guess(task, candidate):
        return Gate(False, f"Refused: {said} on the held-back rows is no better than {guess}.")
    over_baseline = _gain(task, candidate, candidate if is_baseline else baseline)
    tolerance = max(policy.baseline_tolerance, _noise(task, candidate, baseline))
    if not is_baseline:
        said += f" against the baseline's {baseline.get(name, nan):.4f}"
    if not over_baseline >= -tolerance:
        return Gate(False, f"Refused: {said} on the held-back rows does not beat the baseline.")
    if over_baseline <= 0 and not is_baseline:
        said += f" (a tie: within {tolerance:.2g})"
    itself = "it is the baseline" if is_baseline else ""
    if champion is None:
        ends = ", and ".join(filter(None, (itself, "there is no champion yet")))
        return Gate(True, f"Released: {said} on the held-back rows; {ends}.")
    said += f" {'against' if is_baseline else 'and'} the champion's {champion.get(name, nan):.4f}"
    if not _gain(task, candidate, champion) > policy.min_gain:
        wanted = f" by more than {policy.min_gain:g}" if policy.min_gain else ""
        return Gate(False, f"Refused: {said} on the held-back rows does not beat the champion{wanted}.")
    return Gate(True, f"Released: {said} on the held-back rows{itself and '; ' + itself}.")


def _guess(task: Task, candidate: Mapping[str, float]) -> str:
    """The guess that the candidate is no better than, in words; empty when it is better, or was not compared."""
    name, higher = main_metric(task)
    sides = [(name, "chance", 1 if higher else -1)]
    sides += [("log_loss", "chance_log_loss", -1)] if task is Task.multiclass else []
    pairs = [(s * (candidate[mine] - candidate[c]), candidate[f"{c}_se"]) for mine, c, s in sides if c in candidate]
    if not pairs or not all(gain <= error + 1e-9 * abs(candidate["chance"]) for gain, error in pairs):
        return ""
    guesses = {Task.binary: "", Task.multiclass: " the commonest label", Task.regression: " the mean"}
    value = f" ({candidate['chance']:.4f})" if guesses[task] else ""
    gain, error = pairs[0]
    return f"guessing{guesses[task]}{value}" + (f", give or take {error:.4f}" if gain > 0 else "")


def _gain(task: Task, candidate: Mapping[str, float], other: Mapping[str, float]) -> float:
    name, higher = main_metric(task)
    mine, theirs = candidate.get(name, float("nan")), other.get(name, float("nan"))
    return mine - theirs if higher else (theirs - mine) / max(abs(theirs), 1e-300)


def _noise(task: Task, *measured: Mapping[str, float]) -> float:
    name, higher = main_metric(task)
    errors = [m.get(f"{name}_se", 0.0) / (1.0 if higher else max(abs(m.get(name, 0.0)), 1e-300)) for m in measured]
    return 0.5 * max((error for error in errors if np.isfinite(error)), default=0.0)


def _binary(truth: NDArray[Any], prediction: Prediction) -> Metrics:
    positive = (truth == prediction.labels[1]).astype(int)
    score = prediction.score
    if not len(positive):
        names = ("auc", "average_precision", "log_loss", "brier", "accuracy", "auc_se", "chance", "chance_se")
        return dict.fromkeys(names, float("nan"))
    num_positive = int(positive.sum())
    both = 0 < num_positive < len(positive)
    auc = float(sk.roc_auc_score(positive, score)) if both else float("nan")
    error = _auc_error(auc, num_positive, len(positive) - num_positive) if both else float("nan")
    return {
        "auc": auc,
        "average_precision": float(sk.average_precision_score(positive, score)) if both else float("nan"),
        "log_loss": float(sk.log_loss(positive, score, labels=[0, 1])),
        "brier": float(np.mean((score - positive) ** 2)),
        "accuracy": float(np.mean((score >= 0.5) == positive)),
        "auc_se": error,
        "chance": 0.5,
        "chance_se": error,
    }


def _auc_error(auc: float, num_positive: int, num_negative: int) -> float:
    above, below = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    variance = auc * (1 - auc) + (num_positive - 1) * above + (num_negative - 1) * below
    return math.sqrt(max(variance, 0.0) / (num_positive * num_negative))


def _multiclass(truth: NDArray[Any], prediction: Prediction) -> Metrics:
    if not len(truth) or prediction.scores is None or prediction.label is None:
        names = ("accuracy", "macro_f1", "log_loss", "accuracy_se", "chance", "chance_se")
        return dict.fromkeys((*names, "chance_log_loss", "chance_log_loss_se"), float("nan"))
    label = np.array(prediction.label)
    place = {name: i for i, name in enumerate(prediction.labels)}
    index = np.array([place.get(name, -1) for name in truth.tolist()])
    # A label that training never saw had no probability at all.
    likelihood = np.clip(np.where(index >= 0, prediction.scores[np.arange(len(truth)), index], 0.0), 1e-15, 1)
    accuracy = float(np.mean(label == truth))
    known, each, counts = np.unique(truth, return_inverse=True, return_counts=True)
    shares, guessed = counts / len(truth), truth == known[np.argmax(counts)]
    return {
        "accuracy": accuracy,
        "macro_f1": float(sk.f1_score(truth, label, average="macro", zero_division=0)),
        "log_loss": float(-np.log(likelihood).mean()),
        "accuracy_se": (accuracy * (1 - accuracy) / len(truth)) ** 0.5,
        "chance": float(shares.max()),
        "chance_se": _mean_error((label == truth).astype(np.float64) - guessed),
        "chance_log_loss": float(-(shares * np.log(shares)).sum()),
        "chance_log_loss_se": _mean_error(np.log(likelihood) - np.log(shares[each])),
    }


def _regression(truth: NDArray[np.float64], value: NDArray[np.float64]) -> Metrics:
    if not len(truth):
        return dict.fromkeys(("rmse", "mae", "r2", "rmse_se", "chance", "chance_se"), float("nan"))
    error, around = value - truth, truth - truth.mean()
    spread, squared = float(np.mean(around**2)), float(np.mean(error**2))
    rmse, chance = squared**0.5, spread**0.5
    return {
        "rmse": rmse,
        "mae": float(np.mean(np.abs(error))),
        "r2": 1 - squared / spread if spread > 0 else float("nan"),
        "rmse_se": _mean_error(error**2) / (2 * rmse) if rmse > 0 else 0.0,
        "chance": chance,
        "chance_se": _mean_error(around**2 - error**2) / (chance + rmse) if chance + rmse > 0 else 0.0,
    }


def _mean_error(values: NDArray[np.float64]) -> float:
    return float(np.std(values)) / math.sqrt(len(values))
