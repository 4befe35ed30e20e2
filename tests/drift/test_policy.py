"""The policy as a table of situations, and its silence on 500 features without a change."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.drift.detectors import Shift, psi_shift
from raysaas.drift.policy import PERFORMANCE, PREDICTION, Alert, Drop, Retrain, Wait, decide, judge, judge_performance
from raysaas.records import DriftReport, OrderState, RetrainOrder, Severity
from raysaas.settings import Drift

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DRIFT = Drift(consecutive=2, cooldown_s=60)
QUIET = Shift(0.01, 0.0, 0.5)


def report(
    window: int, severity: Severity, *cause: str, performance: bool = False, num_requests: int = 20,
    span_s: tuple[float, float] | None = None,
) -> DriftReport:  # fmt: skip
    started, ended = (NOW + timedelta(seconds=second) for second in span_s or (window, window + 0.9))
    return DriftReport(
        use_case="shop", version=1, window=window, num_decisions=400, started_at=started, ended_at=ended,
        num_requests=num_requests, decisions=("a", "b"),
        features={} if performance else {"age": 0.5, "plan": 0.4}, prediction=0.1,
        performance={"auc": 0.6} if performance else {}, severity=severity, cause=cause,
    )  # fmt: skip


def order(state: OrderState, closed: float | None = None, window: int = 0, number: int = 1) -> RetrainOrder:
    return RetrainOrder(
        id=number, use_case="shop", reason="", evidence={"version": 1, "window": window}, state=state, opened_at=NOW,
        closed_at=NOW + timedelta(seconds=closed) if closed is not None else None,
    )  # fmt: skip


TWICE = [report(2, Severity.drift, "age", "plan"), report(1, Severity.drift, "plan")]


@pytest.mark.parametrize(("history", "orders", "expected"), [
    ([], [], Wait),
    ([report(1, Severity.silent)], [], Wait),
    ([report(1, Severity.warning, "age")], [], Alert),
    ([report(1, Severity.drift, "age")], [], Alert),
    (TWICE, [], Retrain),
    ([report(2, Severity.drift, "age"), report(1, Severity.drift, "plan")], [], Alert),
    ([report(2, Severity.drift, "age"), report(1, Severity.warning, "age")], [], Alert),
    ([report(2, Severity.silent), report(1, Severity.drift, "age")], [], Wait),
    (TWICE, [order(OrderState.open)], Wait),
    (TWICE, [order(OrderState.running)], Wait),
    (TWICE, [order(OrderState.done, closed=-59)], Wait),
    (TWICE, [order(OrderState.failed, closed=-61)], Retrain),
    (TWICE, [order(OrderState.done, closed=-999, window=2)], Wait),
    (TWICE, [order(OrderState.done, closed=-100, number=2), order(OrderState.done, closed=-500)], Wait),
    (TWICE, [order(OrderState.done, closed=-121, number=2), order(OrderState.done, closed=-500)], Retrain),
])  # fmt: skip
def test_decisions(history, orders, expected):
    assert isinstance(decide(history, orders, NOW, DRIFT), expected)


def test_only_the_lasting_cause_is_named_and_evidence_is_plain():
    action = decide(TWICE, [], NOW, DRIFT)
    assert action.evidence["cause"] == ["plan"]
    assert action.evidence["psi"] == {"plan": 0.4}
    assert (action.evidence["version"], action.evidence["window"]) == (1, 2)
    assert "plan" in action.reason


def test_outcome_windows_and_decision_windows_have_runs_of_their_own():
    mixed = [
        report(4, Severity.drift, PERFORMANCE, performance=True), report(3, Severity.silent),
        report(2, Severity.drift, PERFORMANCE, performance=True), report(1, Severity.silent),
    ]  # fmt: skip
    assert isinstance(decide(mixed, [], NOW, DRIFT), Retrain)
    assert isinstance(decide(mixed[:1] + mixed[1::2], [], NOW, DRIFT), Alert)


def test_one_request_over_many_windows_is_one_event_not_a_lasting_change():
    burst = [report(window, Severity.drift, "age", num_requests=1, span_s=(5, 5)) for window in range(20, 0, -1)]
    action = decide(burst, [], NOW, DRIFT)
    assert isinstance(action, Alert)
    assert "Windows 1 to 20 came in 1 request(s): too few to order a retraining" in action.reason
    assert "drift.min_requests is 10" in action.reason
    assert isinstance(decide(burst, [], NOW, Drift(min_requests=1)), Retrain)


def test_a_nightly_batch_orders_after_as_many_nights():
    nights = [report(night, Severity.drift, "age", num_requests=1) for night in range(12, 0, -1)]
    assert isinstance(decide(nights[3:], [], NOW, DRIFT), Alert)
    assert decide(nights[2:], [], NOW, DRIFT).evidence["requests"] == 10
    calm = [*nights[:6], report(0, Severity.silent), *nights[6:]]
    assert isinstance(decide(calm, [], NOW, DRIFT), Alert), "a silent window ends the run"


def test_few_requests_of_outcomes_order_nothing_either():
    posted = [report(w, Severity.drift, PERFORMANCE, performance=True, num_requests=1) for w in (2, 1)]
    assert isinstance(decide(posted, [], NOW, DRIFT), Alert)


def test_retrain_switched_off_only_alerts():
    assert isinstance(decide(TWICE, [], NOW, Drift(retrain=False)), Alert)


def test_drift_needs_size_and_significance():
    features = {"big": Shift(0.6, 0.5, 1e-9), "bigger": Shift(0.9, 0.8, 1e-9), "same": QUIET}
    features["lucky"] = Shift(0.9, 0.7, 0.01)
    assert judge(features, QUIET, DRIFT) == (Severity.drift, ("bigger", "big"))
    assert judge({"lucky": features["lucky"]}, QUIET, DRIFT) == (Severity.silent, ())
    assert judge({"age": Shift(0.25, 0.2, 1e-9)}, QUIET, DRIFT) == (Severity.warning, ("age",))
    assert judge({"age": QUIET}, Shift(0.6, 0.5, 1e-9), DRIFT) == (Severity.drift, (PREDICTION,))


@given(loss=st.floats(-1, 1), error=st.floats(0, 0.5))
def test_performance_drop_must_exceed_limit_and_noise(loss, error):
    severity, cause = judge_performance(Drop("auc", 0.8 - loss, 0.8, loss, error), DRIFT)
    assert (severity is Severity.drift) == (loss > 0.08 and loss > 2 * error)
    assert bool(cause) == (severity is Severity.drift)


@pytest.mark.parametrize("window", [60, 400])
def test_five_hundred_unchanged_features_stay_silent(window):
    rng = np.random.default_rng(0)
    shares = [rng.dirichlet(np.ones(bins)) for bins in rng.integers(2, 33, 500)]
    references = [rng.multinomial(5000, share) for share in shares]
    severities = []
    for _ in range(10):
        shifts = {str(i): psi_shift(references[i], rng.multinomial(window, share)) for i, share in enumerate(shares)}
        severities.append(judge(shifts, QUIET, Drift())[0])
    assert severities == [Severity.silent] * 10
