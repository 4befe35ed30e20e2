"""Incremental reading against the plain truth: every row of a growing table is taken once, whatever the cut."""

from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import ConfigError
from raysaas.ingest.watermark import Digest, Offset, Progress

NAMES = ("id", "at")
ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=6)


def _run(table: list[tuple], before: Offset | None, lag: float = 0.0, names: tuple[str, ...] = NAMES) -> tuple:
    """One run as the database would serve it: rows from ``low`` on, in watermark order."""
    rows = sorted((row for row in table if before is None or row[1] >= before.low), key=lambda row: row[1])
    progress = Progress("at", before, names, lag)
    digest = Digest()
    fresh = [row for i in range(0, len(rows), 2) for row in progress.fresh(rows[i : i + 2], digest)]
    return fresh, progress.offset(), digest


@settings(max_examples=300, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.integers(0, 2))
def test_rows_at_or_behind_the_newest_watermark_are_taken_once(batches: list, lag: int) -> None:
    """Rows arrive in batches; those that lie before what is read again are lost, and only those."""
    table: list[tuple] = []
    expected: Counter = Counter()
    taken: Counter = Counter()
    offset = None
    for batch in batches:
        table += batch
        expected += Counter(row for row in batch if offset is None or row[1] >= offset.low)
        fresh, offset, _ = _run(table, offset, lag)
        taken += Counter(fresh)
        offset = offset and Offset.from_json(offset.to_json())
        assert taken == expected
        assert offset is None or offset.low <= max(row[1] for row in table)


def test_a_row_with_the_boundary_value_that_comes_later_is_taken_and_an_equal_one_too() -> None:
    fresh, offset, _ = _run([(1, 5), (2, 5)], None)
    assert fresh == [(1, 5), (2, 5)]
    table = [(1, 5), (2, 5), (3, 5), (2, 5), (9, 4)]
    fresh, offset, _ = _run(table, offset)
    assert fresh == [(3, 5), (2, 5)]
    assert _run(table, offset)[0] == []


def test_a_late_commit_is_taken_within_the_lag_only() -> None:
    _, offset, _ = _run([(1, 10.0)], None, lag=3)
    assert offset.low == 7.0
    assert _run([(1, 10.0), (2, 8.0), (3, 6.0)], offset, lag=3)[0] == [(2, 8.0)]


def test_columns_that_come_and_go() -> None:
    _, offset, _ = _run([(1, 5)], None)
    more = ("id", "at", "note")
    fresh, wider, _ = _run([(1, 5, None), (2, 5, "x")], offset, names=more)
    assert fresh == [(2, 5, "x")]
    progress = Progress("at", wider, NAMES)
    assert not progress.comparable
    assert progress.fresh([(7, 5), (8, 6)], Digest()) == [(8, 6)]


@pytest.mark.parametrize(
    "value", [7, 1.5, Decimal("12345678901234567890.123456"), "b", date(2026, 1, 2),
              datetime(2026, 1, 2, 3, 4, 5, 678901), datetime(2026, 1, 2, tzinfo=UTC)],
)  # fmt: skip
def test_an_offset_keeps_value_and_type_of_its_watermark(value: object) -> None:
    offset = Offset("at", value, value, NAMES, Counter(a=2))
    again = Offset.from_json(offset.to_json())
    assert again == offset
    assert type(again.high) is type(value)


def test_equal_rows_in_another_order_have_an_equal_digest_and_no_others() -> None:
    def digest(rows: list[tuple]) -> str:
        return _run(rows, None)[2].hexdigest()

    assert digest([(1, 5), (2, 5)]) == digest([(2, 5), (1, 5)])
    assert len({digest(rows) for rows in ([], [(1, 5)], [(1, 5), (1, 5)], [(1, 5)] * 3, [(2, 5)])}) == 5


def test_a_text_watermark_has_no_lag() -> None:
    with pytest.raises(ConfigError, match="'at' holds text"):
        Progress("at", None, NAMES, 1.0).fresh([(1, "a")], Digest())
