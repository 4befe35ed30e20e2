"""The token bucket against its own law, and against a brute-force count."""

import math

from hypothesis import given
from hypothesis import strategies as st

from raysaas.tenancy.quota import Quotas, TokenBucket

GAPS = st.lists(st.floats(0, 2), min_size=1, max_size=60)


@given(rate=st.floats(0.1, 50), burst=st.floats(1, 20), gaps=GAPS)
def test_grants_are_bounded_and_the_wait_is_true(rate, burst, gaps):
    bucket, now, granted = TokenBucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait = bucket.take(now)
        granted += wait == 0.0
        assert granted <= burst + rate * now + 1e-6
        if wait > 0.0:
            assert bucket.take(now + wait * 0.99) > 0.0
            now += wait * (1 + 1e-9) + 1e-9
            assert bucket.take(now) == 0.0
            granted += 1


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


def test_tenants_do_not_share():
    quotas = Quotas(rate=1.0, burst=1.0)
    assert quotas.take("a", 0.0) == 0.0
    assert quotas.take("a", 0.0) == 1.0
    assert quotas.take("b", 0.0) == 0.0
