"""The token bucket against its own law, and limits over several replicas against the sum of what they grant."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.tenancy.quota import Limit, Quotas, TokenBucket

GAPS = st.lists(st.floats(0, 2), min_size=1, max_size=60)


@given(rate=st.floats(0.1, 50), burst=st.floats(1, 20), gaps=GAPS)
def test_grants_are_bounded_and_the_wait_is_true(rate, burst, gaps):
    for bucket in (TokenBucket(rate, burst, 0.0), Alone(rate, burst)):
        now, granted = 0.0, 0
        for gap in gaps:
            now += gap
            wait = bucket.take(now)
            granted += wait == 0.0
            assert granted <= burst + rate * now + 1e-6
            if wait > 1e-9:  # shorter ones are lost in rounding
                assert bucket.take(now + wait * 0.99) > 0.0
                now += wait * (1 + 1e-9) + 1e-9
                assert bucket.take(now) == 0.0
                granted += 1


class Alone:
    """One replica, settling with nobody before each request."""

    def __init__(self, rate, burst):
        self.quotas = Quotas(rate, burst)

    def take(self, now):
        self.quotas.settle(self.quotas.report(), {}, 1, now)
        return self.quotas.take("a", now)


@given(num=st.integers(1, 200))
def test_a_burst_passes_and_no_more(num):
    bucket = TokenBucket(rate=1.0, burst=float(num), now=5.0)
    assert [bucket.take(5.0) for _ in range(num)] == [0.0] * num
    assert bucket.take(5.0) > 0


def test_no_rate_means_never_and_time_may_step_back():
    bucket = TokenBucket(rate=0.0, burst=1.0, now=10.0)
    assert bucket.take(10.0) == 0.0
    assert math.isinf(bucket.take(1e9))
    back = TokenBucket(rate=1.0, burst=1.0, now=10.0)
    assert (back.take(10.0), back.take(3.0)) == (0.0, 1.0)
    assert back.take(11.0) == 0.0


def test_tenants_do_not_share_and_may_have_limits_of_their_own():
    quotas = Quotas(rate=1.0, burst=1.0)
    quotas.limits = {"small": Limit(0.5, 1.0), "shut": Limit(0.0, 0.0)}
    for tenant in ("a", "b", "small"):
        assert quotas.take(tenant, 0.0) == 0.0
    assert [quotas.take(tenant, 0.0) for tenant in ("a", "b", "small", "shut")] == [1.0, 1.0, 2.0, math.inf]


def test_a_changed_limit_counts_from_the_next_settling_on():
    quotas = Quotas(rate=1.0, burst=1.0)
    assert quotas.take("a", 0.0) == 0.0
    quotas.limits = {"a": Limit(100.0, 100.0)}
    quotas.settle(quotas.report(), {}, 1, 0.0)
    assert quotas.take("a", 0.05) == 0.0


RATE, STEP_S = 100.0, 0.005


def granted(num, burst, seconds, demand, seed, dead_from=math.inf):
    """Requests granted by ``num`` replicas that settle once a second, each at moments of its own.

    ``demand(second, replica)`` is what a replica is asked for; the last one dies at ``dead_from``.
    """
    rng = random.Random(seed)
    replicas, reports, total = [Quotas(RATE, burst) for _ in range(num)], {}, 0
    for quotas in replicas:
        quotas.settle({}, {str(i): {} for i in range(num - 1)}, num, 0.0)
    turns, asked = [rng.random() for _ in range(num)], [0.0] * num
    for step in range(round(seconds / STEP_S)):
        now = step * STEP_S
        for i, quotas in enumerate(replicas[: num - (now >= dead_from)]):
            if now >= turns[i]:
                turns[i] += 1.0 + rng.uniform(0, 0.03)
                mine = quotas.report()
                reports[i] = (now, mine)
                alive = {str(j): uses for j, (at, uses) in reports.items() if j != i and now - at < 3}
                quotas.settle(mine, alive, num, now)
            asked[i] += demand(int(now), i) * STEP_S
            while asked[i] >= 1:
                asked[i] -= 1
                total += quotas.take("a", now) == 0.0
    return total


@settings(max_examples=25)
@given(num=st.integers(2, 6), burst=st.floats(50, 400), parts=st.lists(st.floats(0, 1), min_size=6, max_size=6),
       seconds=st.sampled_from([5, 10]), seed=st.integers(0, 99))  # fmt: skip
def test_the_sum_over_replicas_keeps_to_the_limit(num, burst, parts, seconds, seed):
    parts = [part + 1e-3 for part in parts[:num]]
    total = granted(num, burst, seconds, lambda _, i: 4 * RATE * parts[i] / sum(parts), seed)
    assert total == pytest.approx(burst + RATE * seconds, rel=0.1)


@settings(max_examples=10)
@given(num=st.integers(2, 6), seed=st.integers(0, 99))
def test_who_stays_below_the_limit_is_never_refused_wherever_the_requests_go(num, seed):
    demand = 0.9 * RATE
    assert granted(num, RATE, 10, lambda _, i: demand / num, seed) == pytest.approx(10 * demand, abs=2 * num)
    # Until the first settling each replica holds only its even part, of the burst too.
    burst = num * RATE
    assert granted(num, burst, 10, lambda _, i: demand if i == 0 else 0.0, seed) == pytest.approx(10 * demand, abs=2)


@settings(max_examples=10)
@given(num=st.integers(2, 4), seed=st.integers(0, 99))
def test_moving_from_replica_to_replica_gains_nothing(num, seed):
    total = granted(num, RATE, 10, lambda second, i: 4 * RATE if second % num == i else 0.0, seed)
    assert total <= 1.1 * (RATE + RATE * 10)


def test_the_part_of_a_dead_replica_goes_to_the_others():
    total = granted(2, RATE, 12, lambda _, __: 2 * RATE, 0, dead_from=3.0)
    # For three seconds nobody knows of its death.
    assert RATE + RATE * (12 - 2) <= total <= RATE + RATE * 12


def test_small_tenants_are_not_told_of():
    quotas = Quotas(1000.0, 1000.0)
    for _ in range(10):
        quotas.take("small", 0.0)
    for _ in range(50):
        quotas.take("large", 0.0)
    assert quotas.report().keys() == {"large"}
    assert quotas.report() == {}


def test_a_tenant_that_is_gone_is_forgotten():
    quotas = Quotas(10.0, 10.0)
    quotas.take("a", 0.0)
    for now in (1.0, 2.0, 3.0):
        quotas.settle(quotas.report(), {}, 1, now)
    assert quotas._pools == {}
