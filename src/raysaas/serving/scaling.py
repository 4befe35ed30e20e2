"""How many replicas, and when: the settings of Serve's autoscaler, and the policy that it asks. Pure.

A replica answers most requests in one go, and those that wait are still in its sockets: the number under way, which
Serve counts, is then 0 at full load. So the policy also looks at what a replica measures of itself: how busy its event
loop is with requests, and how long a new one waits for its turn there.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from raysaas.settings import Serve

POLICY = "raysaas.serving.scaling:replicas"
WAIT = "wait"  # custom metric: how long a request waits for its turn, over serve.target_wait_ms; 0 when nobody asked
BUSY = "busy"  # custom metric: part of a core that the event loop uses, 0 when nobody asked

UPSCALE_DELAY_S = 3.0
LOOK_BACK_S = 5.0
METRICS_INTERVAL_S = 1.0  # 10 by default: a new replica would say nothing until then, and requests at none wait for it
_TARGET_BUSY = 0.7
_MOST_AT_ONCE = 2.0  # a long wait says that there are too few, not how many too few


def autoscaling(serve: Serve) -> dict[str, Any]:
    """Arguments of Serve's ``autoscaling_config``.

    Up fast (a queue is felt at once), down slowly (a replica costs seconds to start). ``initial_replicas`` is left out
    on purpose: Serve goes back to it with every change of the configuration, and so with every release.
    """
    return {
        "min_replicas": serve.min_replicas,
        "max_replicas": max(serve.min_replicas, serve.max_replicas, 1),
        "target_ongoing_requests": serve.target_ongoing_requests,
        "upscale_delay_s": UPSCALE_DELAY_S,
        "downscale_delay_s": serve.scale_down_s,
        "look_back_period_s": LOOK_BACK_S,
        # Deprecated in favour of environment variables which Ray 2.60 reads and does not use.
        "metrics_interval_s": METRICS_INTERVAL_S,
        "policy": {"policy_function": POLICY},
    }


def desired_replicas(ongoing: float, wait: float, busy: float, running: int, target_ongoing: float) -> float:
    """Replicas that are called for, before bounds and delays.

    ``ongoing`` requests are under way in all of them together. ``wait`` is the mean time that one waits for its turn,
    as a multiple of what is allowed: above 1 there are too few replicas, and from half on none is too many. ``busy``
    is the mean of how busy they are, 0 to 1.
    """
    by_wait = running * min(wait, _MOST_AT_ONCE) if wait > 1.0 else running if wait > 0.5 else 0
    return max(ongoing / target_ongoing, by_wait, running * busy / _TARGET_BUSY)


class Context(Protocol):
    """What this policy reads of Serve's ``AutoscalingContext``."""

    @property
    def total_num_requests(self) -> float: ...

    @property
    def current_num_replicas(self) -> int: ...

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None: ...

    @property
    def config(self) -> Any: ...


def replicas(context: Context) -> tuple[float, dict[str, Any]]:
    """Serve's autoscaler calls this by its import path, a few times a second, in the controller."""
    ongoing, running = context.total_num_requests, context.current_num_replicas
    target = context.config.get_target_ongoing_requests()
    return desired_replicas(ongoing, _mean(context, WAIT), _mean(context, BUSY), running, target), {}


def _mean(context: Context, metric: str) -> float:
    values = list((context.aggregated_metrics or {}).get(metric, {}).values())
    return sum(values) / len(values) if values else 0.0
