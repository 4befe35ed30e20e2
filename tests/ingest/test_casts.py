"""Casts against a per-value oracle, and the one promise of the fast path: it gives what the slow path gives."""

import math
import re
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.ingest.casts import NULLS, cast, day_first
from raysaas.use_case import ColumnType

WORDS = ["", " ", "NA", "nan", "NULL", "abc", "inf", "-Infinity", "1e999", "+3", ".5", "5.", "1_000", "1,000", "0x10",
         "12.0", "12.7", "1e5", "-0", "9223372036854775808", "yes", "No", "f",
         "TRUE", " 7 ", "٣", "--1", "1e", "."]  # fmt: skip
value = st.one_of(st.sampled_from(WORDS), st.floats().map(str), st.integers().map(str), st.text(max_size=6))
values = st.lists(value)


def _number(text: str) -> float | str | None:
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return "infinite" if re.fullmatch(r"[+-]?inf(inity)?", text, re.IGNORECASE | re.ASCII) else "bad"
    return float(text) if math.isfinite(float(text)) else "infinite"


def _integer(text: str) -> int | str | None:
    if not re.fullmatch(r"[+-]?\d+(\.0*)?", text, re.ASCII):
        return "bad"
    number = int(text.split(".")[0])
    return number if -(2**63) <= number < 2**63 else "bad"


def _boolean(text: str) -> bool | str:
    word = text.lower()
    yes, no = {"true", "t", "yes", "y", "on", "1", "1.0"}, {"false", "f", "no", "n", "off", "0", "0.0"}
    return True if word in yes else False if word in no else "bad"


ORACLES = {ColumnType.number: _number, ColumnType.integer: _integer, ColumnType.boolean: _boolean}


def _told(column: list[str], kind: ColumnType) -> list[object]:
    done = cast(pa.chunked_array([pa.array(column, pa.string())]), kind)
    return ["bad" if bad else "infinite" if infinite else value
            for value, bad, infinite in zip(done.values.to_pylist(), done.bad, done.infinite, strict=True)]  # fmt: skip


@pytest.mark.parametrize("kind", list(ORACLES))
@settings(deadline=None, max_examples=60)
@given(column=values)
def test_every_value_is_read_as_the_oracle_reads_it(kind: ColumnType, column: list[str]) -> None:
    spelled = set(NULLS.to_pylist())
    expected = [None if v.strip().lower() in spelled else ORACLES[kind](v.strip()) for v in column]
    assert _told(column, kind) == expected


@pytest.mark.parametrize("kind", [ColumnType.number, ColumnType.integer, ColumnType.time])
@settings(deadline=None, max_examples=60)
@given(value=value)
def test_one_odd_value_does_not_change_how_its_neighbour_is_read(kind: ColumnType, value: str) -> None:
    assert _told([value], kind)[0] == _told([value, "odd"], kind)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-01-05", datetime(2024, 1, 5, tzinfo=UTC)),
        ("2024-01-05 10:30", datetime(2024, 1, 5, 10, 30, tzinfo=UTC)),
        ("2024-01-05T10:00:00Z", datetime(2024, 1, 5, 10, tzinfo=UTC)),
        ("2024-01-05T10:00:00+02:00", datetime(2024, 1, 5, 8, tzinfo=UTC)),
        ("2024-01-05 10:00:00.123456789", datetime(2024, 1, 5, 10, 0, 0, 123456, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000.5", datetime(2023, 11, 14, 22, 13, 20, 500000, tzinfo=UTC)),
        ("1700000000123", datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)),
        ("20240105", datetime(2024, 1, 5, tzinfo=UTC)),
        ("01/13/2024", datetime(2024, 1, 13, tzinfo=UTC)),
        ("01/02/2024 3:04 PM", datetime(2024, 1, 2, 15, 4, tzinfo=UTC)),
        ("2024-02-30", "bad"), ("infinity", "bad"), ("12", "bad"), ("9999999999999999999", "bad"), ("soon", "bad"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("neighbour", [[], ["2024-01-01"], ["nonsense"]])
def test_times_in_many_spellings(text: str, expected: object, neighbour: list[str]) -> None:
    done = cast(pa.chunked_array([[text, *neighbour]]), ColumnType.time, day_first=False)
    assert ("bad" if done.bad[0] else done.values[0].as_py()) == expected


def test_slashed_dates_are_read_only_when_something_tells_the_order() -> None:
    assert day_first(pa.array(["01/02/2024", "13/02/2024"])) is True
    assert day_first(pa.array(["01/02/2024", "02/13/2024"])) is False
    assert day_first(pa.array(["01/02/2024"])) is None
    assert day_first(pa.array(["13/02/2024", "02/13/2024"])) is None
    assert cast(pa.chunked_array([["01/02/2024"]]), ColumnType.time).bad.tolist() == [True]


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (pa.array([1.5, float("nan"), None]), ColumnType.number, [1.5, None, None]),
        (pa.array([1.0, 2.5]), ColumnType.integer, [1, None]),
        (pa.array([1, 0]), ColumnType.boolean, [True, False]),
        (pa.array([True, None]), ColumnType.number, [1.0, None]),
        (pa.array([7, None]), ColumnType.category, ["7", None]),
        (pa.array(["a", "b", "a"]).dictionary_encode(), ColumnType.category, ["a", "b", "a"]),
        (pa.array([0], pa.timestamp("ns", "Asia/Tokyo")), ColumnType.time, [datetime(1970, 1, 1, tzinfo=UTC)]),
        (pa.array([1], pa.date32()), ColumnType.time, [datetime(1970, 1, 2, tzinfo=UTC)]),
        (pa.array(["2.5"], pa.large_string()), ColumnType.number, [2.5]),
    ],
)
def test_typed_columns(array: pa.Array, kind: ColumnType, expected: list[object]) -> None:
    assert cast(pa.chunked_array([array]), kind).values.to_pylist() == expected
