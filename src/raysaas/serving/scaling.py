"""How many replicas, and when: numbers for Serve's autoscaler from the settings. Pure."""

from typing import Any

from raysaas.settings import Serve

UPSCALE_DELAY_S = 3.0
DOWNSCALE_DELAY_S = 60.0
LOOK_BACK_S = 10.0


def autoscaling(serve: Serve) -> dict[str, Any]:
    """Arguments of Serve's ``autoscaling_config``.

    Up fast (a queue is felt at once), down slowly (a replica costs seconds to start).
    """
    return {
        "min_replicas": serve.min_replicas,
        "initial_replicas": serve.min_replicas,
        "max_replicas": max(serve.min_replicas, serve.max_replicas),
        "target_ongoing_requests": serve.target_ongoing_requests,
        "upscale_delay_s": UPSCALE_DELAY_S,
        "downscale_delay_s": DOWNSCALE_DELAY_S,
        "look_back_period_s": LOOK_BACK_S,
    }


def desired_replicas(ongoing: float, serve: Serve) -> int:
    """Replicas that ``ongoing`` concurrent requests call for, within the bounds of ``serve``."""
    wanted = -int(-ongoing // serve.target_ongoing_requests)
    return max(serve.min_replicas, min(max(serve.min_replicas, serve.max_replicas), wanted))
