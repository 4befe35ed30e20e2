"""The reference profile: bins never move, counts add up, JSON keeps everything."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.models.profile import MAX_VALUES, Counts, Profile

KINDS = {"x": "number", "n": "integer", "c": "category"}
ROWS = st.lists(
    st.tuples(
        st.one_of(st.floats(), st.sampled_from([0.0, 1.0])),
        st.integers(-3, 3).map(float),
        st.one_of(st.none(), st.text(max_size=2)),
        st.floats(0, 1),
    ),
    min_size=1,
    max_size=40,
)


def columns(rows: list[tuple]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    x, n, c, score = zip(*rows, strict=True)
    return {"x": np.array(x), "n": np.array(n), "c": np.array([*c, None], dtype=object)[:-1]}, np.array(score)


def counted_by_hand(bins: object, column: np.ndarray) -> list[int]:
    counts = [0] * len(bins.counts)
    for item in column.tolist():
        if bins.kind == "category":
            place = -1 if item is None else bins.values.index(item) if item in bins.values else -2
        else:
            place = -1 if math.isnan(item) else sum(item > edge for edge in bins.edges)
        counts[place] += 1
    return counts


@given(ROWS, ROWS, ROWS)
@settings(max_examples=150, deadline=None)
def test_counts_match_a_count_by_hand_and_add_up(train: list, first: list, second: list) -> None:
    profile = Profile.fit(columns(train)[0], KINDS, columns(train)[1])
    both = profile.count(*columns(first + second))
    total = profile.count(*columns(first)) + profile.count(*columns(second))
    assert both.to_json() == total.to_json() == (profile.empty() + total).to_json()
    assert both.num_rows == len(first) + len(second) == both.score.sum()
    for name, bins in profile.features.items():
        assert both.features[name].tolist() == counted_by_hand(bins, columns(first + second)[0][name])


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_json_text_keeps_profile_and_counts(rows: list) -> None:
    profile = Profile.fit(columns(rows)[0], KINDS, columns(rows)[1])
    again = Profile.from_json(json.loads(json.dumps(profile.to_json(), allow_nan=False)))
    counts = profile.count(*columns(rows))
    assert again == profile
    assert Counts.from_json(json.loads(json.dumps(counts.to_json()))).to_json() == counts.to_json()
    assert profile.reference().to_json() == counts.to_json()


def test_deciles_hold_a_tenth_each() -> None:
    values = np.random.default_rng(0).normal(size=10_000)
    profile = Profile.fit({"x": values}, {"x": "number"}, values)
    assert len(profile.features["x"].edges) == 9
    assert np.abs(np.array(profile.features["x"].counts) - ([1000] * 10 + [0])).max() <= 1
    assert profile.score.counts == profile.features["x"].counts


def test_shapes_and_the_place_of_missing_and_other() -> None:
    values = np.array([f"v{i:02d}" for i in range(MAX_VALUES + 5) for _ in range(2)] + ["v07", None], dtype=object)
    profile = Profile.fit({"c": values}, {"c": "category"}, np.zeros(len(values)))
    counts = profile.count({"c": np.array(["v07", "new", None, None], dtype=object)}, np.zeros(4)).features["c"]
    assert profile.features["c"].values[0] == "v07"
    assert len(counts) == MAX_VALUES + 2
    assert (counts[0], counts[-2], counts[-1]) == (1, 1, 2)


def test_a_constant_that_moves_shows_in_either_direction() -> None:
    profile = Profile.fit({"x": np.full(50, 5.0)}, {"x": "number"}, np.zeros(50))
    assert profile.features["x"].counts == (0, 50, 0, 0)
    moved = profile.count({"x": np.array([4.9, 5.0, 5.1, math.nan])}, np.zeros(4))
    assert moved.features["x"].tolist() == [1, 1, 1, 1]


def test_windows_of_another_profile_do_not_add() -> None:
    one = Profile.fit({"x": np.arange(50.0)}, {"x": "number"}, np.zeros(50)).empty()
    other = Profile.fit({"y": np.arange(50.0)}, {"y": "number"}, np.zeros(50)).empty()
    with pytest.raises(KeyError):
        one + other
