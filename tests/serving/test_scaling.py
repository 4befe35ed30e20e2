"""The policy of the autoscaler, and that Serve accepts it."""

import asyncio
import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig

from raysaas.errors import ConfigError
from raysaas.serving.app import Replica
from raysaas.serving.scaling import BUSY, WAIT, autoscaling, desired_replicas, replicas
from raysaas.settings import Serve


@given(ongoing=st.floats(0, 1e6), running=st.integers(0, 20), target=st.integers(1, 500))
def test_ongoing_requests_are_spread_as_the_target_says(ongoing, running, target):
    assert math.ceil(desired_replicas(ongoing, 0.0, 0.0, running, target)) == math.ceil(ongoing / target)


@given(ongoing=st.floats(0, 100), wait=st.floats(0, 1e3), busy=st.floats(0, 1), running=st.integers(1, 20))
def test_long_waits_and_busy_replicas_call_for_more_whatever_is_under_way(ongoing, wait, busy, running):
    desired = desired_replicas(ongoing, wait, busy, running, 10)
    if wait > 1 or busy > 0.7:
        assert desired > running
    if wait > 0.5:
        assert desired >= running
    if busy > 0:
        assert math.ceil(desired) >= 1, "none is too few for somebody"
    assert ongoing / 10 <= desired <= max(ongoing / 10, 2 * running)


@given(busy=st.floats(0.01, 0.69), running=st.integers(1, 20))
def test_work_that_fewer_can_do_is_not_given_to_fewer_than_can(busy, running):
    fewer = math.ceil(desired_replicas(0.0, 0.0, busy, running, 10))
    assert busy * running / fewer <= 0.7 + 1e-9


def test_serve_accepts_the_numbers_and_calls_the_policy():
    config = AutoscalingConfig(**autoscaling(Serve(min_replicas=2, max_replicas=1, target_ongoing_requests=8)))
    assert (config.min_replicas, config.max_replicas, config.initial_replicas) == (2, 2, None)
    assert config.upscale_delay_s < config.downscale_delay_s
    # Or the numbers of a new replica come after the decision on it.
    assert config.metrics_interval_s < config.upscale_delay_s < config.look_back_period_s
    policy = config.policy.get_policy()
    assert (policy.__module__, policy.__name__) == (replicas.__module__, replicas.__name__)
    context = SimpleNamespace(total_num_requests=20.0, current_num_replicas=2, aggregated_metrics={}, config=config)
    assert replicas(context) == (2.5, {})
    context.aggregated_metrics = {WAIT: {"a": 2.5, "b": 0.5}}
    assert replicas(context) == (3.0, {})
    context.aggregated_metrics = {BUSY: {"a": 0.7, "b": 1.4}}
    assert replicas(context)[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    "setting", [{"target_wait_ms": 0}, {"tenant_models": 0}, {"min_replicas": -1}, {"quota_rps": -1}]
)
def test_settings_that_mean_nothing_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match=f"serve.{next(iter(setting))}"):
        Serve(**setting)


def test_none_at_all_is_allowed():
    config = AutoscalingConfig(**autoscaling(Serve(min_replicas=0, max_replicas=0)))
    assert (config.min_replicas, config.max_replicas) == (0, 1)


def test_a_replica_says_how_busy_it_is_and_nothing_when_nobody_asks(make_app):
    app = make_app()
    replica = Replica(app.spec.to_dict())
    replica._predictor.release({"sequence": 1, "champion": {"version": 1, **app.arm}})
    client = type(app.client)(replica.__serve_build_asgi_app__(), app.client.key)
    rows = [{"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}] * 500

    def sampled():
        return asyncio.run(replica.record_autoscaling_stats())

    assert sampled() == {WAIT: 0.0, BUSY: 0.0}
    for _ in range(20):
        assert client("POST", "/predict", {"instances": rows}).status == 200
    busy = sampled()
    assert 0.05 < busy[BUSY] <= 1.0
    assert busy[WAIT] > 0.0
    assert client("GET", "/health", key="").status == 200
    assert sampled() == {WAIT: 0.0, BUSY: 0.0}, "who looks after its health keeps no replica up"
    replica._close()
