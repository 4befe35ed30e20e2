"""What FedAvg accepts and how much one client may weigh."""

import math

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from raysaas.federation.strategy import BoundedFedAvg, as_record, bounded_shares, fault

COUNTS = st.lists(st.floats(1, 1e12), min_size=1, max_size=8)
SHARE = st.floats(0.01, 1.0)
REFERENCE = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.float32)}


@given(COUNTS, SHARE)
def test_shares_sum_to_one_and_keep_the_bound(counts: list[float], max_share: float) -> None:
    shares = bounded_shares(counts, max_share)
    assert math.fsum(shares) == pytest.approx(1.0)
    assert max(shares) <= max(max_share, 1 / len(counts)) * (1 + 1e-9)


@given(COUNTS, SHARE)
def test_shares_are_the_proportional_ones_cut_at_one_level(counts: list[float], max_share: float) -> None:
    """Oracle: share = min(bound, c * count) for the one c that makes them sum to one, found by bisection."""
    bound = max(max_share, 1 / len(counts))
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(min(bound, middle * n) for n in counts) < 1 else (low, middle)
    assert bounded_shares(counts, max_share) == pytest.approx([min(bound, high * n) for n in counts], abs=1e-6)


@given(COUNTS, SHARE, st.floats(1, 1e12))
def test_claiming_more_never_takes_more_than_the_bound(counts: list[float], max_share: float, claim: float) -> None:
    shares = bounded_shares([*counts, claim], max_share)
    assert shares[-1] <= max(max_share, 1 / (len(counts) + 1)) * (1 + 1e-9)


def _update(value: float = 1.0, **changed: np.ndarray) -> dict[str, np.ndarray]:
    return {name: np.full_like(array, value) for name, array in REFERENCE.items()} | changed


@pytest.mark.parametrize(
    ("update", "metrics", "reason"),
    [
        (_update(), {"num-examples": 5, "loss": 0.1}, None),
        (_update(float("nan")), {"num-examples": 5, "loss": 0.1}, "NaN"),
        (_update(float("inf")), {"num-examples": 5, "loss": 0.1}, "infinity"),
        (_update(b=np.zeros(3, np.float32)), {"num-examples": 5, "loss": 0.1}, "b is float32"),
        (_update(b=np.zeros(2, np.float64)), {"num-examples": 5, "loss": 0.1}, "b is float64"),
        (_update(extra=np.zeros(1, np.float32)), {"num-examples": 5, "loss": 0.1}, "arrays are"),
        (_update(), {"num-examples": 0, "loss": 0.1}, "num-examples is 0"),
        (_update(), {"num-examples": float("nan"), "loss": 0.1}, "num-examples is nan"),
        (_update(), {"num-examples": 1e308, "loss": 0.1}, "num-examples is"),
        (_update(), {"num-examples": 5, "loss": float("inf")}, "loss is inf"),
        (_update(), {"num-examples": 5}, "metrics are"),
    ],
)
def test_fault_names_what_is_wrong(
    update: dict[str, np.ndarray], metrics: dict[str, float], reason: str | None
) -> None:
    found = fault(update, metrics, REFERENCE)
    assert found is None if reason is None else found is not None and reason in found


@pytest.fixture(autouse=True)
def _inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages can be made inside a ServerApp process only; this is what makes one."""
    for name in ("run_id", "task_id", "node_id"):
        monkeypatch.setattr(TaskIdentity, f"_{name}", 1)


def _reply(update: dict[str, np.ndarray], count: float, loss: float = 0.5) -> Message:
    sent = Message(RecordDict({"config": ConfigRecord({})}), dst_node_id=7, message_type="train")
    sent.metadata.__dict__["_message_id"] = "m"
    content = {"arrays": as_record(update), "metrics": MetricRecord({"num-examples": count, "loss": loss})}
    return Message(RecordDict(content), reply_to=sent)


def test_a_poisoned_update_is_left_out_and_counted() -> None:
    strategy = BoundedFedAvg(REFERENCE, max_weight_share=0.8, min_nodes=2)
    replies = [_reply(_update(1.0), 100), _reply(_update(3.0), 100), _reply(_update(float("nan")), 10**9)]
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert arrays is not None
    assert metrics is not None
    assert arrays["w"].numpy().tolist() == np.full((2, 3), 2.0).tolist()
    assert arrays["w"].numpy().dtype == np.float32
    assert strategy.history[0]["used"] == 2
    assert len(strategy.history[0]["refused"]) == 1


def test_a_client_that_claims_everything_weighs_at_most_its_bound() -> None:
    strategy = BoundedFedAvg(REFERENCE, max_weight_share=0.6, min_nodes=2)
    arrays, _ = strategy.aggregate_train(1, [_reply(_update(0.0), 10), _reply(_update(1.0), 10**9)])
    assert arrays is not None
    assert arrays["b"].numpy() == pytest.approx([0.6, 0.6])
    assert strategy.history[0]["shares"] == pytest.approx([0.4, 0.6])


def test_a_round_without_usable_updates_keeps_the_weights() -> None:
    strategy = BoundedFedAvg(REFERENCE, max_weight_share=0.8, min_nodes=2)
    failed = Message(Error(1, "out of memory"), reply_to=_reply(_update(), 1))
    arrays, metrics = strategy.aggregate_train(1, [failed])
    assert arrays is None
    assert metrics is None
    assert "out of memory" in strategy.history[0]["refused"][0]
