"""When a window counts as drifted, and when that orders a retraining; pure, the clock is an argument.

A finding must be large (PSI minus its noise over the threshold), significant (p-value under ``ALPHA`` shared between
all features, so that 500 of them do not cry wolf 500 times as often) and lasting (``drift.consecutive`` windows).

A client that posts a thousand equal rows fills several windows at once, but it is one event, not a lasting change. So a
run of drifted windows orders only when it came from ``drift.min_requests`` requests; a shorter one alerts, and the run
may grow: a nightly batch of one request orders after as many nights. Requests are counted by the moments of decision,
which rows of one request share; a busy replica answers some together, so this counts too few rather than too many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise, takewhile
from typing import Any

from raysaas.drift.detectors import Shift
from raysaas.records import DriftReport, OrderState, RetrainOrder, Severity
from raysaas.settings import Drift

PREDICTION = "prediction"
PERFORMANCE = "performance"
ALPHA = 0.001
ERRORS_OVER = 2.0
MAX_BACKOFF = 6


@dataclass(frozen=True, slots=True)
class Retrain:
    """Order a retraining."""

    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """Tell people; do nothing else."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do."""

    reason: str


Action = Retrain | Alert | Wait


@dataclass(frozen=True, slots=True)
class Drop:
    """A metric on matured outcomes against its reference; ``loss`` is positive when it got worse.

    ``loss`` is in the metric's unit, or relative to the reference for an unbounded metric (rmse).
    """

    metric: str
    value: float
    reference: float
    loss: float
    error: float


def judge(features: Mapping[str, Shift], prediction: Shift, drift: Drift) -> tuple[Severity, tuple[str, ...]]:
    """The verdict on one full window, with the features behind it, strongest first."""
    level = ALPHA / (len(features) + 1)
    shifts = {**features, PREDICTION: prediction}
    excess = {name: shift.excess for name, shift in shifts.items() if shift.pvalue < level}
    for severity, limit in ((Severity.drift, drift.psi_drift), (Severity.warning, drift.psi_warning)):
        cause = sorted((name for name, value in excess.items() if value > limit), key=lambda name: -excess[name])
        if cause:
            return severity, tuple(cause)
    return Severity.silent, ()


def judge_performance(drop: Drop, drift: Drift) -> tuple[Severity, tuple[str, ...]]:
    """The verdict on matured outcomes: a drop over ``performance_drop`` and over twice its own standard error."""
    if drop.loss > max(drift.performance_drop, ERRORS_OVER * drop.error):
        return Severity.drift, (PERFORMANCE,)
    return Severity.silent, ()


def decide(
    history: Sequence[DriftReport], orders: Sequence[RetrainOrder], now: datetime, drift: Drift,
) -> Action:  # fmt: skip
    """What to do after the newest window.

    Parameters
    ----------
    history : reports of the released champion since its release, newest first.
    orders : retrain orders of the use case, newest first.
    now : the time, for the cool-down. It doubles with every order that left this champion in place.
    """
    if not history:
        return Wait("No window is full yet.")
    newest = history[0]
    if newest.severity is Severity.silent:
        return Wait(f"Window {newest.window} is like the reference.")
    cause = ", ".join(newest.cause)
    if newest.severity is Severity.warning:
        return Alert(f"Window {newest.window} moved a little: {cause}.")
    lasting = _lasting(history, drift.consecutive)
    if not lasting:
        return Alert(f"Window {newest.window} drifted ({cause}), not yet {drift.consecutive} in a row.")
    reason = f"{drift.consecutive} windows in a row drifted: {', '.join(lasting)}."
    run = _run(history)
    if (num_requests := _requests(run)) < drift.min_requests:
        few = f"came in {num_requests} request(s): too few to order a retraining (drift.min_requests is"
        return Alert(f"{reason} Windows {run[-1].window} to {newest.window} {few} {drift.min_requests}).")
    held = _held_back(history, orders, now, drift)
    if held:
        return Wait(f"{reason} {held}")
    evidence = {**_evidence(history, lasting), "requests": num_requests}
    return Retrain(reason, evidence) if drift.retrain else Alert(reason)


def _run(history: Sequence[DriftReport]) -> list[DriftReport]:
    # Outcome windows and decision windows interleave: each kind has its own run.
    kind = bool(history[0].performance)
    alike = (report for report in history if bool(report.performance) == kind)
    return list(takewhile(lambda report: report.severity is Severity.drift, alike))


def _requests(run: Sequence[DriftReport]) -> int:
    # A request that lies across two windows was counted in both.
    shared = sum(newer.started_at == older.ended_at for newer, older in pairwise(run))
    return max(sum(report.num_requests for report in run) - shared, 0)  # 0: reports of older versions


def _lasting(history: Sequence[DriftReport], consecutive: int) -> tuple[str, ...]:
    run = _run(history)[:consecutive]
    if len(run) < consecutive:
        return ()
    return tuple(name for name in run[0].cause if all(name in report.cause for report in run))


def _held_back(
    history: Sequence[DriftReport], orders: Sequence[RetrainOrder], now: datetime, drift: Drift,
) -> str:  # fmt: skip
    if any(order.state in (OrderState.open, OrderState.running) for order in orders):
        return "A retraining is under way."
    newest = (history[0].version, history[0].window)
    if any((order.evidence.get("version"), order.evidence.get("window")) == newest for order in orders):
        return "It was ordered before."
    vain = [order for order in orders if order.evidence.get("version") == history[0].version]
    closed = max((order.closed_at for order in orders if order.closed_at), default=None)
    pause = timedelta(seconds=drift.cooldown_s * 2 ** min(max(len(vain) - 1, 0), MAX_BACKOFF))
    if closed and now < closed + pause:
        return f"The last retraining ended at {closed:%H:%M:%S}; the next may start {pause.total_seconds():g} s later."
    return ""


def _evidence(history: Sequence[DriftReport], lasting: tuple[str, ...]) -> dict[str, Any]:
    newest = history[0]
    return {
        "version": newest.version,
        "window": newest.window,
        "cause": list(lasting),
        "psi": {name: round(newest.features[name], 4) for name in lasting if name in newest.features},
        "prediction": round(newest.prediction, 4),
        "performance": dict(newest.performance),
        "decisions": list(newest.decisions),
    }
