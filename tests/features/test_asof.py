"""The point-in-time join and the window aggregates against loops that read like their definitions."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.features.asof import aggregate_names, asof_join, window_aggregates

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
KEYS = ["tenant", "entity"]
times = st.none() | st.integers(0, 12).map(lambda day: T0 + timedelta(days=day))
names = st.none() | st.sampled_from(["a", "b"])
numbers = st.none() | st.integers(-3, 3).map(float) | st.just(math.nan)
key_columns = {"tenant": names, "entity": st.none() | st.integers(0, 1)}
asking = st.lists(st.fixed_dictionaries({**key_columns, "event_time": times}), max_size=8)
offered = st.lists(
    st.fixed_dictionaries({**key_columns, "event_time": times, "known_at": times, "x": numbers, "s": names}),
    max_size=14,
)
ASK = pa.schema([("tenant", pa.string()), ("entity", pa.int64()), ("event_time", STAMP)])
OFFER = pa.schema([*ASK, ("known_at", STAMP), ("x", pa.float64()), ("s", pa.string())])
Row = dict[str, Any]


def visible(ask: Row, row: Row, known_at: datetime | None, known_by_event: bool) -> bool:
    if (
        any(ask[key] is None or ask[key] != row[key] for key in KEYS)
        or ask["event_time"] is None
        or row["event_time"] is None
    ):
        return False
    cuts = [cut for cut in (known_at, ask["event_time"] if known_by_event else None) if cut is not None]
    known = all(row["known_at"] is not None and row["known_at"] <= cut for cut in cuts)
    return bool(row["event_time"] <= ask["event_time"] and known)


def rank(item: tuple[int, Row]) -> tuple[Any, ...]:
    return item[1]["event_time"], item[1]["known_at"] or datetime.min.replace(tzinfo=UTC), item[0]


def same(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, abs_tol=1e-12)
    return left == right


@settings(max_examples=60, deadline=None)
@given(asking, offered, times, st.none() | st.integers(0, 5), st.booleans())
def test_asof_join_is_the_latest_visible_row(
    asks: list[Row], rows: list[Row], known_at: datetime | None, ttl: int | None, known_by_event: bool
) -> None:
    joined = asof_join(
        pa.Table.from_pylist(asks, ASK),
        pa.Table.from_pylist(rows, OFFER),
        keys=KEYS,
        known_at=known_at,
        ttl=None if ttl is None else timedelta(days=ttl),
        known_by_event=known_by_event,
    )
    assert joined.column_names == [*KEYS, "event_time", "x", "s"]
    assert joined.select(ASK.names).to_pylist() == asks
    for ask, got in zip(asks, joined.to_pylist(), strict=True):
        candidates = [(i, row) for i, row in enumerate(rows) if visible(ask, row, known_at, known_by_event)]
        best = max(candidates, key=rank)[1] if candidates else None
        if best and ttl is not None and ask["event_time"] - best["event_time"] > timedelta(days=ttl):
            best = None
        assert same(got["x"], best["x"] if best else None)
        assert got["s"] == (best["s"] if best else None)


AGGREGATES = ["count", "sum:x", "mean:x", "min:x", "max:x", "last:s", "distinct:s", "since_last", "since_first"]
WINDOWS = [timedelta(days=2), timedelta(days=7)]


def brute(name: str, inside: list[tuple[int, Row]], history: list[tuple[int, Row]], cut: datetime | None) -> object:
    function, _, column = name.partition(":")
    values = [
        row[column] for _, row in inside if column and row[column] is not None and not same(row[column], math.nan)
    ]
    if function.startswith("since"):
        edge = {"since_last": max, "since_first": min}[function]
        return (cut - edge(row["event_time"] for _, row in history)) / timedelta(days=1) if history and cut else None
    if function == "last":
        kept = [item for item in inside if item[1][column] is not None]
        return max(kept, key=rank)[1][column] if kept else None
    results = {"count": len(inside), "distinct": len(set(values)), "sum": sum(values) if function == "sum" else 0}
    if function in results:
        return float(results[function]) if function == "sum" else results[function]
    return {"mean": lambda v: sum(v) / len(v), "min": min, "max": max}[function](values) if values else None


@settings(max_examples=40, deadline=None)
@given(asking, offered, times, st.booleans())
def test_window_aggregates_are_those_of_a_loop(
    asks: list[Row], rows: list[Row], known_at: datetime | None, known_by_event: bool
) -> None:
    result = window_aggregates(
        pa.Table.from_pylist(asks, ASK),
        pa.Table.from_pylist(rows, OFFER),
        keys=KEYS,
        windows=WINDOWS,
        aggregates=AGGREGATES,
        known_at=known_at,
        known_by_event=known_by_event,
    )
    assert result.column_names == [*ASK.names, *aggregate_names(WINDOWS, AGGREGATES)]
    for ask, got in zip(asks, result.to_pylist(), strict=True):
        history = [(i, row) for i, row in enumerate(rows) if visible(ask, row, known_at, known_by_event)]
        for aggregate in AGGREGATES:
            for window, name in zip(WINDOWS, aggregate_names(WINDOWS, [aggregate]), strict=False):
                inside = [item for item in history if item[1]["event_time"] > ask["event_time"] - window]
                assert same(got[name], brute(aggregate, inside, history, ask["event_time"])), name


def table(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(v, STAMP) if name.endswith(("_time", "_at")) else v for name, v in columns.items()})


def test_ttl_is_inclusive_and_units_may_differ() -> None:
    ask = table(entity=["a", "a"], event_time=[T0 + timedelta(days=2), T0 + timedelta(days=2, microseconds=1)])
    offer = table(entity=["a"], event_time=[T0], x=[1])
    offer = offer.set_column(1, "event_time", offer["event_time"].cast(pa.timestamp("ns")))
    assert asof_join(ask, offer, keys=["entity"], ttl=timedelta(days=2))["x"].to_pylist() == [1, None]


def test_a_nanosecond_later_is_later() -> None:
    nanos = pa.timestamp("ns", "UTC")
    ask = pa.table({"entity": ["a"], "event_time": pa.array([1_000_000_000], nanos)})
    offer = pa.table({"entity": ["a", "a"], "event_time": pa.array([999, 1_000_000_001], nanos), "x": [1, 2]})
    assert asof_join(ask, offer, keys=["entity"])["x"].to_pylist() == [1]


def test_types_come_out_as_they_went_in() -> None:
    values = {"d": pa.array(["u"]).dictionary_encode(), "l": pa.array([[1, 2]]), "big": pa.array([2**63 - 1])}
    offer = pa.table({"entity": ["a"], "event_time": pa.array([T0], STAMP), **values})
    joined = asof_join(table(entity=["a", "z"], event_time=[T0, T0]), offer, keys=["entity"])
    for name, array in values.items():
        assert joined.schema.field(name).type == array.type
        assert joined[name].to_pylist() == [*array.to_pylist(), None]


@pytest.mark.parametrize(
    ("ask", "offer", "message"),
    [
        (table(entity=["a"]), table(entity=["a"], event_time=[T0], x=[1]), "lacks the columns"),
        (table(entity=["a"], event_time=[T0], x=[1]), table(entity=["a"], event_time=[T0], x=[1]), "both sides"),
        (table(entity=[1], event_time=[T0]), table(entity=["a"], event_time=[T0], x=[1]), "text on one side"),
        (
            table(entity=["a"], event_time=[T0]),
            pa.table({"entity": ["a"], "event_time": [1], "x": [1]}),
            "expected timestamps",
        ),
    ],
)
def test_a_wrong_table_is_named(ask: pa.Table, offer: pa.Table, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asof_join(ask, offer, keys=["entity"])


@pytest.mark.parametrize("aggregate", ["median:x", "count:x", "sum", "sum:s", "sum:missing"])
def test_a_wrong_aggregate_is_named(aggregate: str) -> None:
    ask, offer = table(entity=["a"], event_time=[T0]), table(entity=["a"], event_time=[T0], x=[1], s=["u"])
    with pytest.raises(InputError, match=aggregate.split(":")[-1]):
        window_aggregates(ask, offer, keys=["entity"], windows=[timedelta(days=1)], aggregates=[aggregate])
