"""Request limits per tenant: a token bucket each. Pure: the clock is an argument."""


class TokenBucket:
    """Holds at most ``burst`` tokens and gains ``rate`` of them a second.

    Over any span of ``t`` seconds it grants at most ``burst + rate * t``. ``now`` is in seconds; a step back counts as
    no time.

    >>> bucket = TokenBucket(rate=2.0, burst=1.0, now=0.0)
    >>> bucket.take(0.0), bucket.take(0.0), bucket.take(0.5)
    (0.0, 0.5, 0.0)
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._tokens, self._at = burst, now

    def take(self, now: float, num: float = 1.0) -> float:
        """Take ``num`` tokens and return 0.0, or take none and return the seconds until there are enough."""
        elapsed = now - self._at
        if elapsed > 0:
            self._tokens = min(self.burst, self._tokens + elapsed * self.rate)
            self._at = now
        if self._tokens >= num:
            self._tokens -= num
            return 0.0
        return (num - self._tokens) / self.rate if self.rate > 0 else float("inf")


class Quotas:
    """One bucket per tenant, made when the tenant first asks."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst = rate, burst
        self._buckets: dict[str, TokenBucket] = {}

    def take(self, tenant: str, now: float, num: float = 1.0) -> float:
        """Like :meth:`TokenBucket.take` for ``tenant``: 0.0, or the seconds to wait."""
        bucket = self._buckets.get(tenant)
        if bucket is None:
            bucket = self._buckets[tenant] = TokenBucket(self.rate, self.burst, now)
        return bucket.take(now, num)
