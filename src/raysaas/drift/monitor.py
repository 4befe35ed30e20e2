"""The drift actor of one use case: a thread that polls the watch, and a few questions anyone may ask.

Give it to Serve as ``DeploymentActorConfig(actor_class="raysaas.drift.monitor:DriftActor", init_kwargs={...},
actor_options={"num_cpus": 0})``. It imports none of Feast, MLflow, Evidently and pandas; the hook that hands an order
on runs in a Ray task of its own, because what it imports is heavy.
"""

import importlib
import logging
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import ray
from ray.util.metrics import Gauge

from raysaas.drift.state import report_to_json
from raysaas.drift.watch import Watch
from raysaas.records import DriftReport, RetrainOrder
from raysaas.settings import Drift, Storage
from raysaas.stores.lease import Lease
from raysaas.stores.ledger import Ledger

HAND_ON_TIMEOUT_S = 120.0

_log = logging.getLogger(__name__)


class DriftMonitor:
    """Tails the journal of ``use_case``, records drift reports, orders retraining.

    Parameters
    ----------
    use_case : its name.
    storage, drift : fields of :class:`raysaas.settings.Storage` and :class:`raysaas.settings.Drift` as plain dicts.
    on_order : ``"module:function"``, called as ``function(order: RetrainOrder, storage: dict)`` once per order, or
        once more after a crash.
    """

    def __init__(
        self, use_case: str, storage: Mapping[str, Any], drift: Mapping[str, Any] | None = None,
        on_order: str | None = None,
    ) -> None:  # fmt: skip
        self._use_case, self._storage, self._on_order = use_case, dict(storage), on_order
        places, self._drift = Storage(**self._storage), Drift(**(drift or {}))
        self._ledger = Ledger(str(places.ledger_url))
        self._lease = Lease(self._ledger, f"drift-lease/{use_case}", f"{os.getpid()}-{os.urandom(4).hex()}")
        hook = self._hand_on if on_order else None
        self._watch = Watch(use_case, str(places.journal), self._ledger, self._drift, hook)
        self._error, self._active, self._stopped = "", False, threading.Event()
        gauge = {"tag_keys": ("use_case",)}
        self._psi = Gauge("raysaas_drift_psi_max", description="Greatest PSI excess of the newest window.", **gauge)
        self._windows = Gauge("raysaas_drift_windows", description="Windows reported since the first start.", **gauge)
        self._thread = threading.Thread(target=self._loop, name=f"drift-{use_case}", daemon=True)
        self._thread.start()

    def ping(self) -> str:
        """``ok`` while the polling thread lives."""
        if not self._thread.is_alive():
            raise RuntimeError(f"The drift thread of {self._use_case} has ended: {self._error or 'it was stopped'}.")
        return "ok"

    def status(self) -> dict[str, Any]:
        """What the watch knows, as plain JSON types; ``error`` is that of the last poll, empty when it went well."""
        return {**self._watch.status(), "pid": os.getpid(), "active": self._active, "error": self._error}

    def drift(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest drift reports, newest first, as plain JSON types."""
        return [report_to_json(report) for report in self._ledger.drift(self._use_case, limit)]

    def stop(self) -> None:
        """End polling after saving; called before a planned end, not needed for correctness."""
        self._stopped.set()
        self._thread.join(timeout=30)
        if self._active:
            self._watch.save()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._step()
            self._stopped.wait(self._drift.poll_s)

    def _step(self) -> None:
        try:
            if not self._lease.held(datetime.now(UTC)):
                self._active = False
                return
            if not self._active:
                self._watch.reload()
                self._active = True
            self._publish(self._watch.poll())
            self._error = ""
        except Exception as error:  # noqa: BLE001  the next poll starts from what was saved; status() tells
            if str(error) != self._error:
                _log.exception("The drift monitor of %s failed; it tries again every poll.", self._use_case)
            self._error = str(error) or type(error).__name__

    def _publish(self, reports: list[DriftReport]) -> None:
        tags = {"use_case": self._use_case}
        for report in reports:
            if report.features:
                self._psi.set(max(report.features.values()), tags=tags)
        self._windows.set(self._watch.state.counters["reports"], tags=tags)

    def _hand_on(self, order: RetrainOrder) -> None:
        task = ray.remote(num_cpus=0, max_retries=0)(_call).remote(self._on_order, order, self._storage)
        ray.get(task, timeout=HAND_ON_TIMEOUT_S)


DriftActor = ray.remote(num_cpus=0)(DriftMonitor)


def _call(path: str, order: RetrainOrder, storage: dict[str, Any]) -> None:
    module, _, name = path.partition(":")
    getattr(importlib.import_module(module), name)(order, storage)
