"""Held-back parts: the newest times, or a stable hash; nothing is in two parts."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.worlds import STAMP, T0

from raysaas.errors import InputError
from raysaas.features.split import shares, split
from raysaas.use_case import Split, SplitBy


def table(days: list[int], entities: list[str] | None = None) -> pa.Table:
    size = len(days)
    return pa.table({
        "row_id": [f"r{n}" for n in range(size)], "tenant": ["t"] * size,
        "entity": entities or [f"e{n}" for n in range(size)],
        "moment": pa.array([T0 + timedelta(days=n) for n in days], STAMP),
    })  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=3, max_size=80).filter(lambda days: len(set(days)) >= 3))
def test_a_split_by_time_never_mixes_times(days: list[int]) -> None:
    parts = split(table(days), Split(), timed=True).to_pylist()
    order = {"train": 0, "valid": 1, "test": 2}
    by_day = sorted(zip(days, parts, strict=True))
    assert [order[part] for _, part in by_day] == sorted(order[part] for part in parts)
    assert len({(n, part) for n, part in by_day}) == len(set(days))
    assert set(parts) == set(order)


def test_shares_are_met_where_times_allow() -> None:
    parts = np.array(split(table(list(range(1000))), Split(test=0.2, valid=0.25), timed=True).to_pylist())
    assert [(parts == part).sum() for part in ("train", "valid", "test")] == [600, 200, 200]


def test_test_from_is_the_first_time_held_back() -> None:
    parts = split(table([0, 1, 2, 3]), Split(test_from="2026-01-03"), timed=True).to_pylist()
    assert parts == ["train", "valid", "test", "test"]


def test_one_entity_is_in_one_part_and_a_row_moves_nothing() -> None:
    entities = [f"e{n % 300}" for n in range(3000)]
    whole = table([0] * 3000, entities)
    parts = split(whole, Split(), timed=False).to_pylist()
    assert len(set(zip(entities, parts, strict=True))) == 300
    assert split(whole.slice(1000), Split(), timed=False).to_pylist() == parts[1000:]
    assert 0.1 < parts.count("test") / 3000 < 0.3


def test_few_entities_are_split_by_row() -> None:
    parts = split(table([0] * 400, ["one"] * 400), Split(), timed=True).to_pylist()
    assert set(parts) == {"train", "valid", "test"}


def test_copies_of_a_row_stay_together_where_rows_are_distinct() -> None:
    rng = np.random.default_rng(0)
    ids = pa.array([f"r{n}" for n in range(900)])
    plain = table([0] * 900).set_column(2, "entity", ids)
    number = np.concatenate([rng.normal(size=600), np.full(300, np.nan)])
    number[600:] = number[:300]
    words = pa.array([None if n % 7 == 0 else str(n % 5) for n in [*range(600), *range(300)]])
    copied = plain.append_column("label", words).append_column("x", pa.array(number))
    parts = split(copied, Split(), timed=False).to_pylist()
    assert parts[:300] == parts[600:]
    assert 0.15 < parts.count("test") / 900 < 0.25
    few = plain.append_column("label", pa.array(["no"] * 900)).append_column("x", pa.array([1, 2, 3] * 300))
    parts = split(few, Split(), timed=False).to_pylist()
    assert len({part for part, x in zip(parts, few["x"].to_pylist(), strict=True) if x == 1}) == 3


def test_hashes_are_those_of_any_machine() -> None:
    assert shares(pa.table({"k": ["a"]}), ["k"])[0] == pytest.approx(SHARE_OF_A, abs=1e-15)


SHARE_OF_A = (7000413967451013937 >> 11) / 2**53


@pytest.mark.parametrize(("days", "spec", "message"), [
    ([0, 0, 1], Split(by=SplitBy.time), "three|3 distinct"),
    ([0, 1, 2], Split(test_from="2020-01-01"), "leaves 0 times"),
    ([0], Split(), "no rows for"),
])  # fmt: skip
def test_what_cannot_be_held_back_is_said(days: list[int], spec: Split, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(table(days), spec, timed=True)
