"""Who acts when two actors of one kind live for a moment: a row of the ledger with an owner and a beat."""

import logging
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from raysaas.stores.ledger import Ledger

LEASE_S = 30.0
BEAT_S = 5.0

_log = logging.getLogger(__name__)


class Lease:
    """The last one started holds it, until it stops beating; ``key`` names what is leased."""

    def __init__(self, ledger: Ledger, key: str, owner: str) -> None:
        self._ledger, self._key, self._owner = ledger, key, owner
        self._beaten: datetime | None = None

    def held(self, now: datetime) -> bool:
        """Whether this owner may act; renews the lease every few seconds."""
        if self._beaten is None:
            self._beat(now)
        lease = self._ledger.get_state(self._key) or {}
        mine = lease.get("owner") == self._owner
        age_s = (now - datetime.fromisoformat(lease["beat"])).total_seconds() if lease else LEASE_S
        if (mine and age_s >= BEAT_S) or (not mine and age_s >= LEASE_S):
            self._beat(now)
            return True
        return mine

    def _beat(self, now: datetime) -> None:
        self._beaten = now
        self._ledger.set_state(self._key, {"owner": self._owner, "beat": now.isoformat()})


class Polling:
    """A thread that calls ``poll`` every ``every_s`` seconds while this process holds the lease ``name``.

    ``reload`` takes in what the holder before had saved. After an error the next poll starts from what was saved;
    ``error`` is that of the last poll, empty when it went well, and ``active`` whether the lease is held.
    """

    def __init__(
        self, ledger: Ledger, name: str, *, every_s: float, reload: Callable[[], None], poll: Callable[[], object],
    ) -> None:  # fmt: skip
        self._lease = Lease(ledger, name, f"{os.getpid()}-{os.urandom(4).hex()}")
        self._every_s, self._reload, self._poll = every_s, reload, poll
        self.error, self.active, self._stopped = "", False, threading.Event()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def ping(self) -> str:
        """``ok`` while the thread lives, else RuntimeError with the last error."""
        if not self._thread.is_alive():
            raise RuntimeError(f"The thread {self._thread.name} has ended: {self.error or 'it was stopped'}.")
        return "ok"

    def status(self) -> dict[str, Any]:
        """Process, whether it acts, and what went wrong last."""
        return {"pid": os.getpid(), "active": self.active, "error": self.error}

    def stop(self) -> bool:
        """End the thread; whether it held the lease, so that there is something to save."""
        self._stopped.set()
        self._thread.join(timeout=30)
        return self.active

    def _loop(self) -> None:
        while not self._stopped.is_set():
            self._step()
            self._stopped.wait(self._every_s)

    def _step(self) -> None:
        try:
            if not self._lease.held(datetime.now(UTC)):
                self.active = False
                return
            if not self.active:
                self._reload()
                self.active = True
            self._poll()
            self.error = ""
        except Exception as error:  # noqa: BLE001  the next poll starts from what was saved; status() tells
            if str(error) != self.error:
                _log.exception("%s failed; it tries again every poll.", self._thread.name)
            self.error = str(error) or type(error).__name__
