"""How long a round waits for its sites."""

from hypothesis import given
from hypothesis import strategies as st

from raysaas.federation.grid import keep_waiting

SECONDS = st.floats(0, 1000)


def _waits(elapsed_s: float, num_replies: int, first_enough_s: float | None) -> bool:
    return keep_waiting(
        elapsed_s, num_replies, 3, enough=2, first_enough_s=first_enough_s, timeout_s=100.0, grace_s=10.0
    )


def test_waits_for_enough_then_for_stragglers_then_stops() -> None:
    assert _waits(50.0, 1, None)
    assert _waits(14.0, 2, 5.0)
    assert not _waits(15.0, 2, 5.0)
    assert _waits(39.0, 2, 20.0)
    assert not _waits(40.0, 2, 20.0)


@given(SECONDS)
def test_all_replies_end_a_round_at_once(elapsed_s: float) -> None:
    assert not _waits(elapsed_s, 3, elapsed_s)


@given(st.integers(0, 2), st.one_of(st.none(), SECONDS))
def test_nothing_outlasts_the_timeout(num_replies: int, first_enough_s: float | None) -> None:
    assert not _waits(100.0, num_replies, first_enough_s)
