"""Who acts when two actors of one kind live for a moment: a row of the ledger with an owner and a beat."""

from datetime import datetime

from raysaas.stores.ledger import Ledger

LEASE_S = 30.0
BEAT_S = 5.0


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
