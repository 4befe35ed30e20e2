"""How good decisions were, by group of them, counting mature decisions only; pure.

A decision is mature once it is as old as its label needs to be known. Outcomes of younger ones do not count: what is
known early is not like the rest (a customer who leaves is known at once, one who stays is known last).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysaas.drift.performance import MIN_PER_CLASS, auc, auc_error, log_loss
from raysaas.errors import InputError
from raysaas.records import Task

COLUMNS = ("tenant", "version", "arm", "day")
MAX_GROUPS = 10_000

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """One group of decisions. ``num_known`` counts mature decisions with a usable outcome, which ``metrics`` are of;
    ``num_unusable`` those whose outcome is no label of the model, ``num_early`` outcomes of decisions that are young.
    """

    group: Mapping[str, str]
    num_decisions: int
    num_mature: int
    num_known: int
    num_unusable: int
    num_early: int
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def maturity(self) -> float | None:
        """Share of the mature decisions whose outcome is known; None while there are none."""
        return self.num_known / self.num_mature if self.num_mature else None


def cohorts(
    rows: pa.Table, by: Sequence[str], task: Task, labels: Sequence[str], *, now: datetime, delay: timedelta,
    window: timedelta | None = None,
) -> list[Cohort]:  # fmt: skip
    """Measure ``rows`` (of ``stores.matured``) for each value of ``by``, in order of the groups' names.

    ``by``: columns of :data:`COLUMNS` or names of inputs; with ``window`` also by windows of that length, counted from
    1970. Raises InputError when there are over ``MAX_GROUPS`` groups or decisions have no such input.
    """
    columns = {name: _values(rows, name) for name in by}
    if window is not None:
        columns["window"] = _windows(rows, window)
    mature = np.array(pc.less_equal(rows["time"], pa.scalar(now - delay, rows.schema.field("time").type)))
    facts, told = _Facts.of(rows, task, labels), np.array(pc.is_valid(rows["outcome"]))
    counts = {
        "num_mature": mature, "num_known": mature & facts.usable, "num_unusable": mature & told & ~facts.usable,
        "num_early": ~mature & told,
    }  # fmt: skip
    return [
        Cohort(
            group=group, num_decisions=len(at), **{name: int(which[at].sum()) for name, which in counts.items()},
            metrics=_metrics(task, facts, at[counts["num_known"][at]]),
        )
        for group, at in _groups(columns, rows.num_rows)
    ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Facts:
    """What metrics need of each row: arrays [n]; ``error`` (regression) is 0 where the outcome is not usable."""

    usable: Flags
    score: Floats
    error: Floats
    right: Flags
    positive: Flags

    @classmethod
    def of(cls, rows: pa.Table, task: Task, labels: Sequence[str]) -> "_Facts":
        score = rows["score"].to_numpy()
        if task is Task.regression:
            outcomes = np.array([_number(text) for text in rows["outcome"].to_pylist()], dtype=np.float64)
            usable = np.isfinite(outcomes)
            return cls(usable, score, np.where(usable, score - outcomes, 0.0), usable, usable)
        usable, right, positive = (
            np.array(pc.fill_null(flags, False))
            for flags in (
                pc.is_in(rows["outcome"], value_set=pa.array(labels, pa.string())),
                pc.equal(rows["label"], rows["outcome"]),
                pc.equal(rows["outcome"], labels[1]),
            )
        )
        return cls(usable, score, np.zeros(len(score)), right, positive)


def _metrics(task: Task, facts: _Facts, at: NDArray[np.int64]) -> dict[str, float]:
    """Metrics of the rows ``at`` these places; none without rows, no auc under 10 outcomes of either class.

    Binary: auc and its standard error, log_loss, accuracy, and mean_score next to positive_rate. Multi-class: accuracy.
    Regression: rmse, mae, and bias (mean score less mean outcome).
    """
    if not len(at):
        return {}
    if task is Task.regression:
        error = facts.error[at]
        return {
            "rmse": float(np.sqrt(np.mean(error**2))),
            "mae": float(np.abs(error).mean()),
            "bias": float(error.mean()),
        }
    right = {"accuracy": float(facts.right[at].mean())}
    if task is Task.multiclass:
        return right
    scores, positive = facts.score[at], facts.positive[at]
    rest = {"log_loss": log_loss(positive, scores), **right, "mean_score": float(scores.mean()),
            "positive_rate": float(positive.mean())}  # fmt: skip
    if min(positive.sum(), (~positive).sum()) < MIN_PER_CLASS:
        return rest
    area = auc(positive, scores)
    return {"auc": area, "auc_error": auc_error(area, int(positive.sum()), len(positive)), **rest}


def _number(text: str | None) -> float:
    try:
        return np.nan if text is None else float(text)
    except ValueError:
        return np.nan


def _values(rows: pa.Table, name: str) -> list[str]:
    """A grouping value of each row as text."""
    if name == "day":
        return [str(day) for day in rows["time"].cast(pa.int64()).to_numpy().astype("datetime64[us]").astype("M8[D]")]
    if name in COLUMNS:
        return [str(value) for value in rows[name].to_pylist()]
    inputs = [orjson.loads(text) for text in rows["inputs"].to_pylist()]
    if inputs and not any(name in row for row in inputs):
        known = sorted({key for row in inputs for key in row})
        raise InputError(f"Decisions have no {name!r}: choose from {', '.join([*COLUMNS, *known])}.")
    return [str(row.get(name)) for row in inputs]


def _windows(rows: pa.Table, window: timedelta) -> list[str]:
    length = int(window.total_seconds() * 1e6)
    starts = rows["time"].cast(pa.int64()).to_numpy() // length * length
    names = {start: datetime.fromtimestamp(start / 1e6, UTC).isoformat() for start in np.unique(starts).tolist()}
    return [names[start] for start in starts.tolist()]


def _groups(columns: Mapping[str, list[str]], num_rows: int) -> Iterator[tuple[dict[str, str], NDArray[np.int64]]]:
    if not columns:
        yield {}, np.arange(num_rows)
        return
    places: dict[tuple[str, ...], list[int]] = {}
    for place, values in enumerate(zip(*columns.values(), strict=True)):
        places.setdefault(values, []).append(place)
    if len(places) > MAX_GROUPS:
        raise InputError(f"By {', '.join(columns)} there are {len(places)} groups: at most {MAX_GROUPS} are shown.")
    for values in sorted(places):
        yield dict(zip(columns, values, strict=True)), np.array(places[values])
