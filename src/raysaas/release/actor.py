"""The release actor of one use case: a thread that polls the referee and hands on what it decides.

Give it to Serve as a deployment actor, as the drift one. The hooks run in a Ray task of their own, because what they
import is heavy; they write to the ledger first, so that an actor killed in between leaves a recorded release, which the
next one brings to the replicas.
"""

import importlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import ray

from raysaas.release.judge import Action
from raysaas.release.referee import Referee
from raysaas.settings import ReleasePolicy, Storage
from raysaas.stores.lease import Polling
from raysaas.stores.ledger import Ledger

HAND_ON_TIMEOUT_S = 180.0

_log = logging.getLogger(__name__)


class ReleaseMonitor:
    """Follows the comparisons of ``use_case`` and acts on what they prove.

    Parameters
    ----------
    use_case : its name.
    storage, release : fields of :class:`raysaas.settings.Storage` and :class:`raysaas.settings.ReleasePolicy` as plain
        dicts.
    on_verdict : ``"module:function"``, called as ``function(use_case, storage, action, sequence)`` with an action's
        fields; an empty action asks for the recorded release to be brought to Serve again.
    """

    def __init__(
        self, use_case: str, storage: Mapping[str, Any], release: Mapping[str, Any] | None = None,
        on_verdict: str | None = None,
    ) -> None:  # fmt: skip
        self._use_case, self._storage, self._on_verdict = use_case, dict(storage), on_verdict
        places, self._policy = Storage(**self._storage), ReleasePolicy(**(release or {}))
        ledger = Ledger(str(places.ledger_url))
        self._referee = Referee(use_case, str(places.journal), ledger, self._policy, self._act, self._apply)
        self._polling = Polling(
            ledger, f"release-lease/{use_case}", every_s=self._policy.poll_s, reload=self._referee.reload,
            poll=self._referee.poll,
        )  # fmt: skip

    def ping(self) -> str:
        """``ok`` while the polling thread lives."""
        return self._polling.ping()

    def status(self) -> dict[str, Any]:
        """What is compared and what was decided last; ``error`` is that of the last poll, empty when it went well."""
        return {**self._referee.status(), **self._polling.status()}

    def stop(self) -> None:
        """End polling after saving; called before a planned end, not needed for correctness."""
        if self._polling.stop():
            self._referee.save()

    def _act(self, action: Action, sequence: int) -> None:
        _log.warning("%s: %s. %s", self._use_case, action.kind, action.reason)
        self._hand_on({**asdict(action), "kind": str(action.kind)}, sequence)

    def _apply(self) -> None:
        self._hand_on({}, 0)

    def _hand_on(self, action: Mapping[str, Any], sequence: int) -> None:
        if self._on_verdict is not None:
            task = ray.remote(num_cpus=0, max_retries=0)(_call)
            call = task.remote(self._on_verdict, self._use_case, self._storage, dict(action), sequence)
            ray.get(call, timeout=HAND_ON_TIMEOUT_S)


ReleaseActor = ray.remote(num_cpus=0)(ReleaseMonitor)


def _call(path: str, use_case: str, storage: dict[str, Any], action: dict[str, Any], sequence: int) -> None:
    module, _, name = path.partition(":")
    getattr(importlib.import_module(module), name)(use_case, storage, action, sequence)
