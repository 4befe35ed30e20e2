"""Versions of tenants that have their own: thousands named by a release, those in use held in memory.

A bundle is loaded when its tenant first asks, verified, in a thread: the tenant's requests wait for it and all others
go on. One that is broken, or raises while predicting, is told of and tried again later; meanwhile the champion answers
for its tenant.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from raysaas.models.bundle import Bundle
from raysaas.records import Arm
from raysaas.serving.versions import Answering, Version, load

logger = logging.getLogger(__name__)

_LOADERS = 2  # bundles loaded at once: a slow one does not hold up all others
_RETRY_S = 30.0  # after which a broken version is tried again


class Cold(Exception):
    """A tenant's version is not in memory now."""


class OwnVersions:
    """The least recently used of ``capacity`` bundles, loaded for ``device``, makes room for the next one."""

    def __init__(self, capacity: int, device: str | None = None) -> None:
        self._capacity, self._device = capacity, device
        self._loaded: OrderedDict[str, Bundle] = OrderedDict()  # by digest
        self._lock = Lock()
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._refused: dict[str, tuple[str, float]] = {}  # by digest: why, and when
        self._logged: set[str] = set()  # digests
        self._pool = ThreadPoolExecutor(_LOADERS, "bundles")
        self.num = {"loaded": 0, "evicted": 0, "refused": 0, "failed": 0}

    def version(self, answering: Answering, tenant: str) -> Version | None:
        """The version of ``tenant``'s own; None when it has none that works: the champion answers.

        Raises
        ------
        Cold
            It has one that must be loaded first: await :meth:`ready`.
        """
        arm = answering.tenants.get(tenant)
        if arm is None:
            return None
        found = self._held(arm.digest)
        if found is not None:
            return Version(arm.version, found, arm.features)
        if arm.digest in self._refused:
            return None
        raise Cold

    async def ready(self, answering: Answering, tenant: str, deadline: float = math.inf) -> None:
        """Return when the version of ``tenant``'s own is loaded or known not to work, at ``deadline`` at the latest."""
        arm = answering.tenants.get(tenant)
        if arm is None or self._held(arm.digest) is not None or self._gave_up(arm):
            return
        future = self._loading.get(arm.digest)
        if future is None:
            future = asyncio.get_running_loop().run_in_executor(self._pool, self._fetch, arm)
            self._loading[arm.digest] = future
            future.add_done_callback(lambda _: self._loading.pop(arm.digest, None))
        patience_s = None if deadline == math.inf else max(deadline - time.monotonic(), 0.0)
        # Unlike an await of the future, no client that leaves cancels it for the others.
        await asyncio.wait([future], timeout=patience_s)

    def failed(self, version: Version, error: Exception) -> None:
        """``version`` raised while predicting: the champion answers for its tenant until it is tried again."""
        digest = version.bundle.digest
        with self._lock:
            self._loaded.pop(digest, None)
        # The type only: a message may repeat feature values.
        self._refuse(digest, f"Version {version.number} raised {type(error).__name__} while predicting.", "failed")

    def follow(self, before: Answering | None, answering: Answering) -> None:
        """Load what replaces the versions in memory, before ``answering`` answers; slow, for the release's thread."""
        named = {arm.digest for arm in answering.tenants.values()}
        self._refused = {digest: why for digest, why in self._refused.items() if digest in named}
        self._logged &= named
        for tenant, arm in (before.tenants if before else {}).items():
            new = answering.tenants.get(tenant)
            if new and new.digest != arm.digest and self._held(arm.digest) and not self._held(new.digest):
                self._fetch(new)

    def problem(self) -> str | None:
        """What is wrong with versions of tenants, for the operator; names no tenant."""
        whys = [why for why, _ in list(self._refused.values())]
        more = f" So are {len(whys) - 1} others." if len(whys) > 1 else ""
        return f"A tenant's version is broken, the champion answers instead. {whys[0]}{more}" if whys else None

    def counts(self) -> Mapping[str, int]:
        """Bundles loaded, evicted and refused, and predictions that failed, so far."""
        return dict(self.num)

    def close(self) -> None:
        """End the loaders."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _held(self, digest: str) -> Bundle | None:
        with self._lock:
            found = self._loaded.get(digest)
            if found is not None:
                self._loaded.move_to_end(digest)
            return found

    def _gave_up(self, arm: Arm) -> bool:
        refused = self._refused.get(arm.digest)
        return refused is not None and time.monotonic() - refused[1] < _RETRY_S

    def _fetch(self, arm: Arm) -> None:
        try:
            found = load(arm, self._device)
        except Exception as error:  # noqa: BLE001 - whatever it is, requests must not wait for ever
            self._refuse(arm.digest, str(error), "refused")
            return
        self._refused.pop(arm.digest, None)
        with self._lock:
            self._loaded[arm.digest] = found
            self.num["loaded"] += 1
            while len(self._loaded) > self._capacity:
                self._loaded.popitem(last=False)
                self.num["evicted"] += 1

    def _refuse(self, digest: str, why: str, event: str) -> None:
        self._refused[digest] = (why, time.monotonic())
        self.num[event] += 1
        if digest not in self._logged:
            self._logged.add(digest)
            logger.error("A tenant's version is broken, the champion answers instead. %s", why)
