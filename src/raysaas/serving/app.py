"""Binds a use case to Ray Serve: one deployment, whose replicas each do the whole request in process."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import DeploymentActorConfig
from sqlalchemy.exc import SQLAlchemyError

from raysaas.errors import RaysaasError
from raysaas.serving.door import Door
from raysaas.serving.metrics import Meter
from raysaas.serving.predictor import Predictor
from raysaas.serving.scaling import autoscaling
from raysaas.serving.spec import DEPLOYMENT, AppSpec

__all__ = ["DEPLOYMENT", "AppSpec", "Replica", "application", "build"]

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


class Replica:
    """One replica. Its release comes as ``user_config``, so a new version is a message and not a redeploy."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        parsed = AppSpec.from_dict(spec)
        self._predictor, self._meter = Predictor(parsed), Meter(parsed.use_case)
        self._stop = threading.Event()
        threading.Thread(target=self._tick, name="tick", daemon=True).start()

    def __serve_build_asgi_app__(self) -> Door:
        return Door(self._predictor, self._meter.record, self._close)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take a release. The old one answers until the new one is loaded, and goes on if that fails."""
        try:
            await asyncio.to_thread(self._predictor.release, user_config)
        except RaysaasError:
            # With something to answer with, the refusal is reported by /health; raising would replace the replica.
            if self._predictor.health()["champion"] is None:
                raise

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self._predictor.tick()
            except (SQLAlchemyError, OSError) as error:
                # The keys of a second ago stay good; the next tick tries again.
                logger.warning("The ledger or the journal did not answer: %s", type(error).__name__)
            self._meter.flush()

    def _close(self) -> None:
        self._stop.set()
        self._predictor.close()


_ENDPOINT = serve.deployment(name=DEPLOYMENT)(serve.ingress()(Replica))


def build(args: Mapping[str, Any], monitor: str | None = None, on_order: str | None = None) -> serve.Application:
    """The Serve application of one use case from the ``args`` that :func:`raysaas.serving.deployment.app_config` makes.

    ``monitor`` is the import path of a Ray actor class that lives as long as the deployment does, called with
    ``use_case``, ``storage``, ``drift`` and ``on_order``.
    """
    spec = AppSpec.from_dict(args)
    options: dict[str, Any] = {
        "autoscaling_config": autoscaling(spec.serve),
        "max_ongoing_requests": spec.serve.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": spec.serve.num_cpus},
        "health_check_period_s": 5.0,
        "graceful_shutdown_timeout_s": 10.0,
        "logging_config": _LOGGING,
    }
    if monitor is not None:
        watched = {
            "use_case": spec.use_case,
            "storage": args["storage"],
            "drift": args.get("drift"),
            "on_order": on_order,
        }
        options["deployment_actors"] = [
            DeploymentActorConfig(name="drift", actor_class=monitor, init_kwargs=watched, actor_options={"num_cpus": 0})
        ]
    return _ENDPOINT.options(**options).bind(spec.to_dict())


def application(args: Mapping[str, Any]) -> serve.Application:
    """Import path for Serve's config file: the application without a monitor."""
    return build(args)
