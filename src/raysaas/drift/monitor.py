"""The drift actor of one use case: a thread that polls the watch, and a few questions anyone may ask.

Give it to Serve as ``DeploymentActorConfig(actor_class="raysaas.drift.monitor:DriftActor", init_kwargs={...},
actor_options={"num_cpus": 0})``. It imports none of Feast, MLflow, Evidently and pandas; the hook that hands an order
on runs in a Ray task of its own, because what it imports is heavy.
"""

import importlib
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge

from raysaas.drift.state import report_to_json
from raysaas.drift.watch import Watch
from raysaas.records import DriftReport, RetrainOrder
from raysaas.settings import Drift, Storage
from raysaas.stores.lease import Polling
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
        hook = self._hand_on if on_order else None
        self._watch = Watch(use_case, str(places.journal), self._ledger, self._drift, hook)
        gauge = {"tag_keys": ("use_case",)}
        self._psi = Gauge("raysaas_drift_psi_max", description="Greatest PSI excess of the newest window.", **gauge)
        self._windows = Gauge("raysaas_drift_windows", description="Windows reported since the first start.", **gauge)
        self._polling = Polling(
            self._ledger, f"drift-lease/{use_case}", every_s=self._drift.poll_s, reload=self._watch.reload,
            poll=lambda: self._publish(self._watch.poll()),
        )  # fmt: skip

    def ping(self) -> str:
        """``ok`` while the polling thread lives."""
        return self._polling.ping()

    def status(self) -> dict[str, Any]:
        """What the watch knows, as plain JSON types; ``error`` is that of the last poll, empty when it went well."""
        return {**self._watch.status(), **self._polling.status()}

    def drift(self, limit: int = 20) -> list[dict[str, Any]]:
        """The newest drift reports, newest first, as plain JSON types."""
        return [report_to_json(report) for report in self._ledger.drift(self._use_case, limit)]

    def stop(self) -> None:
        """End polling after saving; called before a planned end, not needed for correctness."""
        if self._polling.stop():
            self._watch.save()

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
