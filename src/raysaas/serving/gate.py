"""The first step of every request: which tenant is this, may it, and how often."""

import math
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from raysaas.errors import AccessDenied, Forbidden, Unavailable
from raysaas.serving.protocol import OverQuota
from raysaas.stores.ledger import Ledger
from raysaas.stores.quotas import QuotaBook
from raysaas.tenancy.keys import Access, KeyRing
from raysaas.tenancy.quota import Limit, Quotas, Use

_BEARER = b"bearer "
_RELOAD_S = 0.1  # guessing keys must not become reading the ledger
_SILENT_S = 3.0  # a report as old as this says nothing of now
_IDLE_BEAT_S, _DEAD_S = 5.0, 15.0  # a replica that nobody asks says so this often; one that is silent so long is gone


class Gate:
    """Keys and quotas of one replica. The ledger is read in the background, and for an unknown key: it may be new."""

    def __init__(
        self, ledger: Ledger, use_case: str, rate: float, burst: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._ledger, self._clock = ledger, clock
        self.num_asked = 0  # requests with a key that opens what they ask for, those over the limit too
        self._quotas, self._burst_s = Quotas(rate, burst), burst / rate if rate > 0 else 0.0
        self._book = QuotaBook(ledger, use_case)
        self._peers = Peers(self._book)
        self._lock = threading.Lock()
        self._ring, self._looked_at, self._blind = KeyRing(), 0.0, False
        self.refresh()
        self.settle()

    def refresh(self) -> None:
        """Take the keys as the ledger has them now."""
        with self._lock:
            self._ring = KeyRing(self._ledger.keys())
            self._blind = False

    def _look_again(self) -> None:
        try:
            self.refresh()
        except SQLAlchemyError:
            self._blind = True

    def settle(self) -> None:
        """Tell the other replicas what this one granted, and take in what they say; about once a second."""
        limits = self._book.limits()
        self._quotas.limits = {tenant: Limit(rps, rps * self._burst_s) for tenant, rps in limits.items()}
        mine = self._quotas.report()
        others, num = self._peers.exchange(mine, time.monotonic())
        self._quotas.settle(mine, others, num, self._clock())

    def leave(self) -> None:
        """Tell the other replicas that this one is gone; should that fail they notice in some seconds."""
        with suppress(SQLAlchemyError):
            self._peers.leave()

    def admit(self, authorization: bytes, scope: str) -> Access:
        """Return what the key opens.

        Raises
        ------
        AccessDenied, Forbidden, OverQuota
            The key is missing, wrong or expired; it lacks ``scope``; its tenant is over the limit.
        Unavailable
            The key is not among the known ones, and the ledger, which may know it, is away.
        """
        if authorization[:7].lower() != _BEARER:
            raise AccessDenied("Send your API key as 'Authorization: Bearer KEY'.")
        now = self._clock()
        access = self._ring.access(authorization[7:].strip(), now)
        if access is None and now - self._looked_at >= _RELOAD_S:
            self._looked_at = now
            self._look_again()
            access = self._ring.access(authorization[7:].strip(), now)
        if access is None and self._blind:
            raise Unavailable("This API key is not known yet, and new ones cannot be read now: try again.")
        if access is None:
            raise AccessDenied("The API key is unknown or has expired.")
        if not access.allows(scope):
            raise Forbidden(f"This API key does not have the scope {scope!r}.")
        self.num_asked += 1
        wait = self._quotas.take(access.tenant, now)
        if wait > 0.0:
            rate = self._quotas.limit(access.tenant).rate
            then = f"try again in {wait:.2f} s" if wait < math.inf else "nothing passes until it is changed"
            raise OverQuota(f"The request limit is {rate:g} a second: {then}.", wait)
        return access


class Peers:
    """The other replicas of a use case, as their reports in the ledger show them."""

    def __init__(self, book: QuotaBook) -> None:
        self._book, self._name, self._beat = book, uuid.uuid4().hex, 0
        self._told_at, self._told = float("-inf"), False
        self._heard: dict[str, tuple[int, float]] = {}  # replica -> its last beat, and when that was new

    def exchange(self, mine: Mapping[str, Use], now: float) -> tuple[dict[str, dict[str, Use]], int]:
        """Report ``mine``; what the others reported lately, and how many replicas are alive. ``now`` is monotonic."""
        if mine or self._told or now - self._told_at >= _IDLE_BEAT_S:
            self._beat += 1
            self._book.tell(self._name, self._beat, mine)
            self._told_at, self._told = now, bool(mine)
        told = self._book.told()
        told.pop(self._name, None)
        for replica, (beat, _) in told.items():
            if self._heard.get(replica, (None,))[0] != beat:
                self._heard[replica] = (beat, now)
        silent = {replica: now - self._heard[replica][1] for replica in told}
        self._heard = {replica: self._heard[replica] for replica in told}
        if gone := [replica for replica, age_s in silent.items() if age_s > 4 * _DEAD_S]:
            self._book.forget(gone)
        others = {
            replica: {tenant: Use(int(use[0]), int(use[1]), int(use[2]), use[3]) for tenant, use in body.items()}
            for replica, (_, body) in told.items()
            if silent[replica] < _SILENT_S
        }
        return others, 1 + sum(age_s < _DEAD_S for age_s in silent.values())

    def leave(self) -> None:
        """Take this replica's report away."""
        self._book.forget([self._name])
