"""Aggregates as spans over places: exact sums, and one key with very many rows and cuts."""

import math
from datetime import UTC, datetime, timedelta
from random import Random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.features.asof import window_aggregates
from raysaas.features.exact_sums import span_sums
from raysaas.features.windows import covering_max

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
SIZE = 5
FLOATS = st.one_of(
    st.floats(-1e306, 1e306),
    st.sampled_from([5e-324, -5e-324, 1e-310, 2.0**-53, 3 * 2.0**-54, 1.0, -1.0, 2.0**53, 1e16, -1e16, 0.1, -0.0]),
)
SPANS = st.tuples(st.integers(0, SIZE - 1), st.integers(0, SIZE), FLOATS)


@settings(max_examples=300, deadline=None)
@given(st.lists(SPANS, max_size=12))
def test_a_sum_over_spans_is_the_exact_one_rounded_once(spans: list[tuple[int, int, float]]) -> None:
    first = np.array([low for low, _, _ in spans], dtype=np.int64)
    end = np.array([max(low, high) for low, high, _ in spans], dtype=np.int64)
    sums = span_sums(first, end, np.array([value for *_, value in spans], dtype=np.float64), SIZE)
    for place in range(SIZE):
        over = [value for low, high, value in spans if low <= place < high]
        assert sums[place] == math.fsum(over)


def test_infinities_add_up_as_floats_do() -> None:
    first, end = np.array([0, 1, 2, 0]), np.array([3, 3, 3, 4])
    sums = span_sums(first, end, np.array([1.0, math.inf, -math.inf, 2.0]), 4)
    assert sums[[0, 1, 3]].tolist() == [3.0, math.inf, 2.0]
    assert math.isnan(sums[2])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 41), st.integers(-9, 9)), max_size=30))
def test_the_greatest_span_over_a_place(spans: list[tuple[int, int, int]]) -> None:
    low, high, value = (np.array([span[n] for span in spans], dtype=np.int64) for n in range(3))
    best = covering_max(low, np.maximum(low, high), value, 41)
    for place in range(41):
        over = [span[2] for span in spans if span[0] <= place < span[1]]
        assert best[place] == max(over, default=np.iinfo(np.int64).min)


def hot(size: int, *, key: str = "a") -> tuple[pa.Table, pa.Table]:
    """As many cuts as events, all of one key; some events become known days later."""
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 365 * 86_400 * 10**6, size))
    late = at + (rng.random(size) < 0.05) * 3 * 86_400 * 10**6
    events = pa.table({"entity": [key] * size, "event_time": pa.array(at).cast(STAMP), "x": rng.random(size),
                       "known_at": pa.array(late).cast(STAMP), "kind": rng.integers(0, 9, size)})  # fmt: skip
    cuts = pa.table({"entity": [key] * size, "event_time": pa.array(rng.permutation(at)).cast(STAMP)})
    return cuts, events


ALL = ["count", "sum:x", "mean:x", "min:x", "max:x", "last:kind", "distinct:kind", "since_last", "since_first"]


def test_a_hot_key_takes_seconds_where_pairs_would_take_hours() -> None:
    cuts, events = hot(200_000)  # 20,000,000,000 pairs in the longer window
    started = datetime.now(UTC)
    windows = [timedelta(days=7), timedelta(days=400)]
    got = window_aggregates(cuts, events, keys=["entity"], windows=windows, aggregates=ALL, known_by_event=True)
    assert datetime.now(UTC) - started < timedelta(seconds=30)
    at, known, x, kind = (events[name].to_numpy() for name in ("event_time", "known_at", "x", "kind"))
    for row in got.take(Random(1).sample(range(200_000), 20)).to_pylist():
        cut = np.datetime64(row["event_time"].replace(tzinfo=None), "us")
        seen = (at <= cut) & (known <= cut)
        inside = seen & (at > cut - np.timedelta64(7, "D"))
        assert (row["count_7d"], row["count_400d"]) == (inside.sum(), seen.sum())
        assert (row["sum_x_7d"], row["sum_x_400d"]) == (math.fsum(x[inside]), math.fsum(x[seen]))
        assert (row["min_x_7d"], row["max_x_400d"]) == (x[inside].min(), x[seen].max())
        assert (row["last_kind_7d"], row["distinct_kind_7d"]) == (kind[inside][-1], len(set(kind[inside])))
        assert row["since_first_d"] == (cut - at[seen].min()) / np.timedelta64(1, "D")


def test_a_sum_has_the_same_bits_in_any_company_and_order() -> None:
    cuts, events = hot(300)
    huge = events.slice(0, 1).set_column(2, "x", pa.array([1e300]))
    early = huge.set_column(1, "event_time", pa.array([T0 - timedelta(days=20_600)], STAMP))
    crowd = pa.concat_tables([early.set_column(3, "known_at", early["event_time"]), hot(50, key="b")[1], events])
    shuffled = crowd.take(np.random.default_rng(1).permutation(crowd.num_rows))
    cut = {"keys": ["entity"], "windows": [timedelta(days=30)], "aggregates": ["sum:x", "mean:x"]}
    alone = [window_aggregates(cuts.slice(n, 1), events, **cut) for n in range(0, 300, 10)]
    together = window_aggregates(cuts, shuffled, **cut).take(list(range(0, 300, 10)))
    assert together.equals(pa.concat_tables(alone))
