"""Numbers for the autoscaler."""

import math

from hypothesis import given
from hypothesis import strategies as st
from ray.serve.config import AutoscalingConfig

from raysaas.serving.scaling import autoscaling, desired_replicas
from raysaas.settings import Serve


@given(
    ongoing=st.floats(0, 1e6), low=st.integers(1, 10), extra=st.integers(0, 10), target=st.integers(1, 500),
)  # fmt: skip
def test_replicas_follow_demand_within_bounds(ongoing, low, extra, target):
    serve = Serve(min_replicas=low, max_replicas=low + extra, target_ongoing_requests=target)
    num = desired_replicas(ongoing, serve)
    assert low <= num <= low + extra
    assert num == min(max(math.ceil(ongoing / target), low), low + extra)


def test_serve_accepts_the_numbers():
    config = AutoscalingConfig(**autoscaling(Serve(min_replicas=2, max_replicas=1)))
    assert (config.min_replicas, config.max_replicas) == (2, 2)
    assert config.upscale_delay_s < config.downscale_delay_s
