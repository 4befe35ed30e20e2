"""Request limits per tenant, in requests and not rows: a token bucket each, shared by replicas. Pure: time is given.

Replicas grant without asking each other. About once a second each reports what it granted and what it was asked for
(:meth:`Quotas.report`) and takes in what the others report (:meth:`Quotas.settle`): what they granted leaves its own
picture of the tenant's bucket, and the part of the bucket that it may hand out until the next time is its part of the
demand. A grant that was seen late is subtracted late, never forgotten, so the sum over replicas follows the limit.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

_SETTLE_S = 1.0  # about how often replicas settle: no client has to wait longer than that for a larger share
_FLOOR = 0.02  # of the demand: what a replica may hand out of a limit that nobody asked it for
_WORTH_TELLING = 0.01  # of a second's tokens: fewer than these are nobody's loss


class TokenBucket:
    """Holds at most ``burst`` tokens and gains ``rate`` of them a second.

    Over any span of ``t`` seconds it grants at most ``burst + rate * t``. ``now`` is in seconds; a step back counts as
    no time.

    >>> bucket = TokenBucket(rate=2.0, burst=1.0, now=0.0)
    >>> bucket.take(0.0), bucket.take(0.0), bucket.take(0.5)
    (0.0, 0.5, 0.0)
    """

    __slots__ = ("_at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self._at = burst, now

    def take(self, now: float, num: float = 1.0) -> float:
        """Take ``num`` tokens and return 0.0, or take none and return the seconds until there are enough."""
        self.fill(now)
        if self.tokens >= num:
            self.tokens -= num
            return 0.0
        return (num - self.tokens) / self.rate if self.rate > 0 else float("inf")

    def fill(self, now: float) -> None:
        """Gain what time has brought."""
        elapsed = now - self._at
        if elapsed > 0:
            self.tokens = min(self.burst, self.tokens + elapsed * self.rate)
            self._at = now


class Limit(NamedTuple):
    """What a tenant may: ``rate`` requests a second on all replicas together, and ``burst`` at once."""

    rate: float
    burst: float


class Use(NamedTuple):
    """What one replica says of one tenant: granted since it started; granted and asked since its last report; and how
    many tokens it believes the tenant's bucket holds."""

    total: int
    granted: int
    asked: int
    level: float


class _Pool:
    """One tenant's limit as this replica sees it: the whole bucket at the last settling, and its own part of it."""

    __slots__ = ("asked", "granted", "level", "limit", "own", "reported", "settled", "settled_at", "unseen")

    def __init__(self, limit: Limit, level: float, share: float, now: float) -> None:
        self.limit, self.level = limit, level
        self.granted = self.reported = self.settled = self.asked = 0
        self.settled_at, self.unseen = now, 0.0
        self.own = TokenBucket(0.0, 0.0, now)
        self.hand(share, level)

    def hand(self, share: float, tokens: float) -> None:
        """Make ``share`` of the limit and of ``tokens`` this replica's own. A whole token is worth one request."""
        self.own.rate, self.own.burst = self.limit.rate * share, max(self.limit.burst * share, min(self.limit.burst, 1))
        self.own.tokens = min(max(tokens * share, min(tokens, 1.0)), self.own.burst)


class Quotas:
    """The limits of one use case in one replica. ``limits`` are those of tenants that have their own.

    With no other replica known it is one exact token bucket per tenant.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._common = Limit(rate, burst)
        self.limits: Mapping[str, Limit] = {}
        self._pools: dict[str, _Pool] = {}
        self._seen: dict[str, dict[str, int]] = {}  # replica -> tenant -> total that is taken in
        self._replicas = 1

    def limit(self, tenant: str) -> Limit:
        """What ``tenant`` may."""
        return self.limits.get(tenant, self._common)

    def take(self, tenant: str, now: float) -> float:
        """Grant a request and return 0.0, or refuse it and return the seconds to wait."""
        pool = self._pools.get(tenant)
        if pool is None:
            limit = self.limit(tenant)
            pool = self._pools[tenant] = _Pool(limit, limit.burst, 1.0 / self._replicas, now)
        pool.asked += 1
        wait = pool.own.take(now)
        if wait == 0.0:
            pool.granted += 1
            return 0.0
        if self._replicas == 1 or pool.limit.rate <= 0.0:
            return wait
        return min(wait, _SETTLE_S + (1.0 - min(pool.own.tokens, 0.0)) / pool.limit.rate)

    def report(self) -> dict[str, Use]:
        """What the other replicas need to know of this one, since the last call; small tenants are left out."""
        uses = {}
        for tenant, pool in list(self._pools.items()):
            use = Use(pool.granted, pool.granted - pool.reported, pool.asked, pool.level)
            if use.asked > _WORTH_TELLING * pool.limit.rate:
                uses[tenant] = use
            pool.reported, pool.asked = pool.granted, 0
        return uses

    def settle(self, mine: Mapping[str, Use], others: Mapping[str, Mapping[str, Use]], num: int, now: float) -> None:
        """Take in the last reports: ``mine``, and ``others`` by replica; ``num`` replicas are alive, this one too."""
        self._replicas = max(num, 1 + len(others))
        news = self._news(others)
        told: dict[str, list[Use]] = {}
        for uses in others.values():
            for tenant, use in uses.items():
                told.setdefault(tenant, []).append(use)
        for tenant in told.keys() - self._pools.keys():
            limit = self.limit(tenant)
            level = min(limit.burst, *(use.level for use in told[tenant]))
            self._pools[tenant] = _Pool(limit, level, 1.0 / self._replicas, now)
        for tenant, pool in list(self._pools.items()):
            limit, idle = self.limit(tenant), tenant not in told and tenant not in mine
            if idle and pool.level >= limit.burst and pool.settled == pool.granted:
                del self._pools[tenant]
            else:
                pool.limit = limit
                self._settle(pool, mine.get(tenant), told.get(tenant, ()), news.get(tenant, 0), now)

    def _news(self, others: Mapping[str, Mapping[str, Use]]) -> dict[str, int]:
        """Grants of others that were not known before, by tenant."""
        news: dict[str, int] = {}
        for replica, uses in others.items():
            before = self._seen.get(replica, {})
            for tenant, use in uses.items():
                # Of a tenant that it did not tell of last time, only what is recent matters.
                news[tenant] = news.get(tenant, 0) + use.total - before.get(tenant, use.total - use.granted)
        self._seen = {replica: {t: use.total for t, use in uses.items()} for replica, uses in others.items()}
        return news

    def _settle(self, pool: _Pool, mine: Use | None, others: Sequence[Use], news: int, now: float) -> None:
        elapsed, own = max(now - pool.settled_at, 0.0), pool.granted - pool.settled
        pool.own.fill(now)
        if self._replicas == 1:
            pool.level = pool.own.tokens
        else:
            # Reports are half an interval old on average: what was granted since is guessed, and put right later.
            unseen = 0.5 * sum(use.granted for use in others)
            used = own + news + unseen - pool.unseen
            pool.level, pool.unseen = min(pool.limit.burst, pool.level + pool.limit.rate * elapsed - used), unseen
        pool.settled, pool.settled_at = pool.granted, now
        asked, total = mine.asked if mine else 0, sum(use.asked for use in others)
        total += asked
        least = max(_FLOOR * total, 0.5) if total else 1.0
        share = (asked + least) / (total + self._replicas * least)
        pool.hand(share, pool.level)
