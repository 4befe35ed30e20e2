"""The point-in-time join and the window aggregates against loops that read like their definitions."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.oracle import aggregate, latest, same

from raysaas.errors import InputError
from raysaas.features.asof import aggregate_names, asof_join, window_aggregates

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
DAY = timedelta(days=1)
LEVEL = pa.dictionary(pa.int32(), pa.string())
Row = dict[str, Any]

# Every Arrow type that a feature may have, and values of it.
VALUES: dict[str, tuple[pa.DataType, list[Any]]] = {
    "f64": (pa.float64(), [1.0, math.nan, math.inf]),
    "f32": (pa.float32(), [0.5, 2.0]),
    "i64": (pa.int64(), [-(2**63), 2**63 - 1]),
    "u64": (pa.uint64(), [2**64 - 1, 0]),
    "i8": (pa.int8(), [-128, 127]),
    "flag": (pa.bool_(), [True, False]),
    "text": (pa.string(), ["", "a", "ü\x1f"]),
    "large": (pa.large_string(), ["", "b"]),
    "view": (pa.string_view(), ["", "a view longer than twelve bytes"]),
    "bytes": (pa.binary(), [b"", b"\x00"]),
    "level": (LEVEL, ["u", "v"]),
    "price": (pa.decimal128(38, 9), [Decimal("12345678901234567890123456789.123456789"), Decimal(0)]),
    "list": (pa.list_(pa.int64()), [[], [1], [1, None]]),
    "struct": (pa.struct([("x", pa.int64())]), [{"x": 1}, {"x": None}]),
    "day": (pa.date32(), [date(2026, 2, 1), date(1969, 12, 31)]),
    "nanos": (pa.timestamp("ns"), [datetime(2026, 2, 1)]),
    "span": (pa.duration("us"), [timedelta(seconds=1), timedelta(0)]),
}
KEYS: dict[str, tuple[list[pa.DataType], list[Any]]] = {
    "text": ([pa.string(), pa.large_string(), pa.string_view(), LEVEL], ["a", "b"]),
    "number": ([pa.int64(), pa.int32(), pa.uint8()], [0, 1]),
    "price": ([pa.decimal128(10, 2)], [Decimal("1.50")]),
    "date": ([pa.date32()], [date(2026, 1, 1)]),
}
KEY_TYPES = {name: kinds for name, (kinds, _) in KEYS.items()}


class World:
    """Random keys, asking rows and offered rows: few keys and few times, so that ties and edges are common."""

    def __init__(self, seed: int, *, absent: float = 0.1, tidy: bool = False) -> None:
        self.random, self.absent = Random(seed), absent
        self.kinds = {"text": [pa.string(), pa.large_string()], "number": [pa.int64()]} if tidy else KEY_TYPES
        self.keys = self.random.sample(list(self.kinds), min(self.random.choice([1, 1, 2, 3]), len(self.kinds)))
        # Ticks no finer than the coarsest unit that a column may have.
        self.units, self.tick = self.random.choice([
            (["s", "ms", "us", "ns"], timedelta(seconds=1)), (["ms", "us", "ns"], timedelta(milliseconds=1)),
            (["us", "ns"], timedelta(microseconds=1)), (["us"], DAY),
        ])  # fmt: skip

    def rows(self, count: int, values: dict[str, list[Any]], *, known: bool) -> list[Row]:
        draw = self.random
        columns: dict[str, list[Any]] = {key: KEYS[key][1] for key in self.keys} | values
        return [
            {name: None if draw.random() < self.absent else draw.choice(column) for name, column in columns.items()}
            | {name: self.time() for name in ["event_time", *(["known_at"] if known else [])]}
            for _ in range(count)
        ]

    def tidied(self, rows: list[Row]) -> list[Row]:
        """In order of key and time, or nearly; in some worlds what happened was known at once."""
        draw = self.random
        if draw.random() < 0.5:
            known = [{**row, "known_at": row["event_time"]} if draw.random() < 0.5 else row for row in rows]
            rows = [row for row in known if not row["event_time"] or (row["known_at"] or T0) <= row["event_time"]]
        order = [*self.keys, "event_time", *draw.choice([["known_at"], ["known_at"], []])]
        cut = draw.choice([0, 0, len(rows) // 2])
        return [
            row
            for part in (rows[:cut], rows[cut:])
            for row in sorted(part, key=lambda row: tuple((row[name] is None, row[name] or 0) for name in order))
        ]

    def time(self) -> datetime | None:
        return None if self.random.random() < self.absent else T0 + self.random.randrange(5) * self.tick

    def table(self, rows: list[Row], values: dict[str, pa.DataType], *, known: bool) -> pa.Table:
        """``rows`` in chunks, in types and units of any choice."""
        draw, kinds = self.random, {key: self.random.choice(self.kinds[key]) for key in self.keys}
        zones = {name: draw.choice([None, "UTC"]) for name in ["event_time", *(["known_at"] if known else [])]}
        stamps = {name: pa.timestamp(draw.choice(self.units), zone) for name, zone in zones.items()}
        schema, cut = pa.schema({**kinds, **stamps, **values}), draw.randint(0, len(rows))
        bare = [
            {**row, **{name: row[name] and row[name].replace(tzinfo=zone and UTC) for name, zone in zones.items()}}
            for row in rows
        ]
        return pa.concat_tables(pa.Table.from_pylist(part, schema) for part in (bare[:cut], bare[cut:]))


# A key that is asked for often is joined in another way than one asked for seldom, rows that lie in order in a third.
@pytest.mark.parametrize(("times_asked", "tidy"), [(1, False), (20, False), (1, True)])
@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_asof_join_is_the_latest_visible_row(times_asked: int, tidy: bool, seed: int) -> None:
    world = World(seed, absent=0.0 if tidy and seed % 4 else 0.1, tidy=tidy)
    draw, keys = world.random, world.keys
    asks = world.rows(draw.randrange(7), {}, known=False)
    cuts = {"known_at": draw.choice([None, None, world.time()]), "known_by_event": draw.random() < 0.4}
    ttl = draw.choice([None, draw.randrange(4) * world.tick])
    asking = world.table(asks, {}, known=False)
    joined = asked = pa.concat_tables([asking] * times_asked)
    for number in range(draw.choice([1, 2, 3])):
        chosen = {f"{name}_{number}": VALUES[name] for name in draw.sample(list(VALUES), 3)}
        rows = world.rows(draw.randrange(40), {name: values for name, (_, values) in chosen.items()}, known=True)
        if tidy:
            rows = world.tidied(rows)
        offered = world.table(rows, {name: kind for name, (kind, _) in chosen.items()}, known=True)
        joined = asof_join(joined, offered, keys=keys, ttl=ttl, **cuts)
        found = [latest(ask, rows, keys, ttl, **cuts) for ask in asks] * times_asked
        for name, (kind, _) in chosen.items():
            assert joined.schema.field(name).type == kind
            expected = [None if row is None else row[name] for row in found]
            assert all(same(*pair) for pair in zip(joined[name].to_pylist(), expected, strict=True)), (name, expected)
    assert joined.select(asked.column_names).equals(asked)


OFFERED: dict[str, tuple[list[pa.DataType], list[Any]]] = {
    "x": ([pa.float64(), pa.float32(), pa.int64(), pa.uint8()], [0.0, 1.0, 2.0]),
    "n": ([pa.float64()], [-1.0, 3.0, math.nan]),
    "s": ([pa.string(), pa.large_string(), LEVEL], ["u", "v"]),
    "d": ([pa.date32()], [date(2026, 2, 1), date(2026, 3, 1)]),
    "t": ([STAMP], [T0, T0 + timedelta(microseconds=1)]),
    "p": ([pa.decimal128(20, 4)], [Decimal("1.5000"), Decimal(2)]),
    "l": ([pa.list_(pa.int64())], [[1], [2, 3]]),
}
AGGREGATES = ["count", "sum:x", "mean:n", "sum:n", "min:n", "max:x", "last:n", "distinct:n", "last:s", "distinct:s",
              "min:d", "max:t", "last:p", "last:l", "since_last", "since_first"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_window_aggregates_are_those_of_a_loop(seed: int) -> None:
    world = World(seed)
    draw, keys = world.random, world.keys
    kinds = {name: draw.choice(kind) for name, (kind, _) in OFFERED.items()}
    asks = world.rows(draw.randrange(7), {}, known=False)
    rows = world.rows(draw.randrange(40), {name: values for name, (_, values) in OFFERED.items()}, known=True)
    windows = [2 * world.tick, 4 * world.tick] if world.tick == DAY else [3 * world.tick]
    cuts = {"known_at": draw.choice([None, None, world.time()]), "known_by_event": draw.random() < 0.4}
    aggregates = draw.choice([AGGREGATES, AGGREGATES[:-2]])  # "since" looks at all history, the others at the windows
    asking, offered = world.table(asks, {}, known=False), world.table(rows, kinds, known=True)
    result = window_aggregates(asking, offered, keys=keys, windows=windows, aggregates=aggregates, **cuts)
    assert result.column_names == [*asking.column_names, *aggregate_names(windows, aggregates)]
    for ask, got in zip(asks, result.to_pylist(), strict=True):
        for wanted in aggregates:
            for window, name in zip(windows, aggregate_names(windows, [wanted]), strict=False):
                expected = aggregate(wanted, ask, rows, keys, window, **cuts)
                assert same(got[name], expected), (name, got[name], expected)


def table(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(v, STAMP) if name.endswith(("_time", "_at")) else v for name, v in columns.items()})


def test_ttl_is_inclusive_and_units_may_differ() -> None:
    ask = table(entity=["a", "a"], event_time=[T0 + timedelta(days=2), T0 + timedelta(days=2, microseconds=1)])
    offer = table(entity=["a"], event_time=[T0], x=[1])
    offer = offer.set_column(1, "event_time", offer["event_time"].cast(pa.timestamp("ns")))
    assert asof_join(ask, offer, keys=["entity"], ttl=timedelta(days=2))["x"].to_pylist() == [1, None]


def test_rows_in_order_of_which_some_became_known_late_are_no_exception() -> None:
    at = [T0 + day * DAY for day in range(4)]
    offer = table(entity=["a"] * 4, event_time=at, known_at=[at[0], T0 + 9 * DAY, at[2], at[3]], x=[0, 1, 2, 3])
    ask = table(entity=["a"] * 3, event_time=[at[1], at[2], T0 + 9 * DAY])
    assert asof_join(ask, offer, keys=["entity"], known_by_event=True)["x"].to_pylist() == [0, 2, 3]
    assert asof_join(ask, offer, keys=["entity"])["x"].to_pylist() == [1, 2, 3]


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
