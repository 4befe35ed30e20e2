"""The first step of every request: which tenant is this, may it, and how often."""

import threading
import time
from collections.abc import Callable

from raysaas.errors import AccessDenied, Forbidden
from raysaas.serving.protocol import OverQuota
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import Access, KeyRing
from raysaas.tenancy.quota import Quotas

_BEARER = b"bearer "
_RELOAD_S = 0.1  # guessing keys must not become reading the ledger


class Gate:
    """Keys and quotas of one replica. The ledger is read in the background, and for an unknown key: it may be new."""

    def __init__(self, ledger: Ledger, rate: float, burst: float, clock: Callable[[], float] = time.time) -> None:
        self._ledger, self._clock = ledger, clock
        self._quotas = Quotas(rate, burst)
        self._lock = threading.Lock()
        self._ring, self._looked_at = KeyRing(), 0.0
        self.refresh()

    def refresh(self) -> None:
        """Take the keys as the ledger has them now."""
        with self._lock:
            self._ring = KeyRing(self._ledger.keys())

    def admit(self, authorization: bytes, scope: str) -> Access:
        """Return what the key opens.

        Raises
        ------
        AccessDenied, Forbidden, OverQuota
            The key is missing, wrong or expired; it lacks ``scope``; its tenant is over the limit.
        """
        if authorization[:7].lower() != _BEARER:
            raise AccessDenied("Send your API key as 'Authorization: Bearer KEY'.")
        now = self._clock()
        access = self._ring.access(authorization[7:].strip(), now)
        if access is None and now - self._looked_at >= _RELOAD_S:
            self._looked_at = now
            self.refresh()
            access = self._ring.access(authorization[7:].strip(), now)
        if access is None:
            raise AccessDenied("The API key is unknown or has expired.")
        if not access.allows(scope):
            raise Forbidden(f"This API key does not have the scope {scope!r}.")
        wait = self._quotas.take(access.tenant, now)
        if wait > 0.0:
            raise OverQuota(f"The request limit is {self._quotas.rate:g} a second; try again in {wait:.2f} s.", wait)
        return access
