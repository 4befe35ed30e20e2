"""Binds a use case to Ray Serve: one deployment, whose replicas each do the whole request in process."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.config import DeploymentActorConfig
from sqlalchemy.exc import SQLAlchemyError

from raysaas.errors import RaysaasError
from raysaas.serving.door import Door
from raysaas.serving.metrics import Meter
from raysaas.serving.predictor import Predictor
from raysaas.serving.scaling import BUSY, WAIT, autoscaling
from raysaas.serving.spec import DEPLOYMENT, AppSpec

__all__ = ["DEPLOYMENT", "AppSpec", "Replica", "application", "build"]

logger = logging.getLogger(__name__)

_TICK_S = 1.0
_TURNS = 10  # over which the wait for a turn is averaged
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}


class Replica:
    """One replica. Its release comes as ``user_config``, so a new version is a message and not a redeploy."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        # Serve takes what goes to a replica's stderr for information, which its log at this level leaves out.
        logging.getLogger("raysaas").parent = logging.getLogger("ray.serve")
        parsed = AppSpec.from_dict(spec)
        self._predictor, self._meter = Predictor(parsed), Meter(parsed.use_case)
        self._sampled = (time.perf_counter(), time.thread_time(), 0)  # when, CPU time of the loop, requests so far
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

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For Serve's autoscaler: how long a request waits for its turn now, which is how long a turn of the event loop
        takes, and how busy the loop was with requests since the last call."""
        now, used, asked = time.perf_counter(), time.thread_time(), self._predictor.gate.num_asked
        (before, used_before, asked_before), self._sampled = self._sampled, (now, used, asked)
        if asked == asked_before or now <= before:
            return {WAIT: 0.0, BUSY: 0.0}
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        took_ms = 1000.0 * (time.perf_counter() - now) / _TURNS
        busy = (used - used_before) / (now - before)
        return {WAIT: took_ms / self._predictor.spec.serve.target_wait_ms, BUSY: min(max(busy, 0.0), 1.0)}

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self._predictor.tick()
            except (SQLAlchemyError, OSError) as error:
                # The keys of a second ago stay good; the next tick tries again.
                logger.warning("The ledger or the journal did not answer: %s", type(error).__name__)
            self._meter.flush(self._predictor.own.counts())

    def _close(self) -> None:
        self._stop.set()
        self._predictor.close()


_ENDPOINT = serve.deployment(name=DEPLOYMENT)(serve.ingress()(Replica))


def build(
    args: Mapping[str, Any], monitor: str | None = None, on_order: str | None = None,
    releaser: str | None = None, on_verdict: str | None = None,
) -> serve.Application:  # fmt: skip
    """The Serve application of one use case from the ``args`` that :func:`raysaas.serving.deployment.app_config` makes.

    ``monitor`` and ``releaser`` are import paths of Ray actor classes that live as long as the deployment does, called
    with ``use_case``, ``storage``, and ``drift`` and ``on_order``, or ``release`` and ``on_verdict``.
    """
    spec = AppSpec.from_dict(args)
    options: dict[str, Any] = {
        "autoscaling_config": autoscaling(spec.serve),
        "max_ongoing_requests": spec.serve.max_ongoing_requests,
        "ray_actor_options": {"num_cpus": spec.serve.num_cpus, "num_gpus": spec.serve.num_gpus},
        "health_check_period_s": 5.0,
        "graceful_shutdown_timeout_s": 10.0,
        "logging_config": _LOGGING,
    }
    known = {"use_case": spec.use_case, "storage": args["storage"]}
    actors = (
        ("drift", monitor, {"drift": args.get("drift"), "on_order": on_order}),
        ("release", releaser, {"release": args.get("release"), "on_verdict": on_verdict}),
    )
    if any(path for _, path, _ in actors):
        options["deployment_actors"] = [
            DeploymentActorConfig(name=name, actor_class=path, init_kwargs=known | own, actor_options={"num_cpus": 0})
            for name, path, own in actors
            if path is not None
        ]
    return _ENDPOINT.options(**options).bind(spec.to_dict())


def application(args: Mapping[str, Any]) -> serve.Application:
    """Import path for Serve's config file: the application without a monitor."""
    return build(args)
