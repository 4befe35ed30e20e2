"""Windows add up: counts exactly, quantiles within the sketch's error."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.drift.sketches import MAX_MOMENTS, DecisionWindow, Quantiles
from raysaas.models.profile import Profile

START = datetime(2026, 1, 1, tzinfo=UTC)
PROFILE = Profile.fit(
    {"age": np.arange(100.0), "plan": np.array(["a", "b"] * 50, dtype=object)}, {"age": "number", "plan": "category"},
    np.linspace(0, 1, 100),
)  # fmt: skip
VALUE = st.none() | st.integers(-50, 150) | st.floats(-50, 150) | st.booleans() | st.sampled_from(["a", "b", "c"])
RECORDS = st.lists(st.tuples(VALUE, VALUE, st.floats(0, 1)), min_size=2, max_size=40).map(
    lambda rows: [
        {
            "id": str(i),
            "inputs": {"age": age, "plan": plan},
            "score": score,
            "time": (START + timedelta(seconds=(i * 7) % 11)).isoformat(),
        }
        for i, (age, plan, score) in enumerate(rows)
    ]
)


@given(records=RECORDS, data=st.data())
def test_parts_add_up_to_the_whole_exactly(records, data):
    cut = data.draw(st.integers(1, len(records) - 1))
    whole = DecisionWindow.of(PROFILE, records)
    parts = DecisionWindow.of(PROFILE, records[:cut]) + DecisionWindow.of(PROFILE, records[cut:])
    assert parts.counts.to_json() == whole.counts.to_json()
    assert (parts.first, parts.last, parts.started_at, parts.ended_at, parts.num_rows) == (
        whole.first, whole.last, whole.started_at, whole.ended_at, len(records),
    )  # fmt: skip
    assert parts.score.num_values() == len(records)
    assert parts.num_requests == whole.num_requests == len({record["time"] for record in records})


@given(records=RECORDS)
def test_window_survives_json(records):
    saved = DecisionWindow.of(PROFILE, records).to_json()
    again = DecisionWindow.from_json(saved)
    assert again.to_json() == saved
    assert (again + again).num_rows == 2 * len(records)


def test_moments_are_counted_up_to_a_bound_however_the_window_was_cut():
    records = [
        {"id": "x", "inputs": {}, "score": 0.5, "time": f"{START + timedelta(seconds=i // 3)}"} for i in range(400)
    ]
    parts = [DecisionWindow.of(PROFILE, records[i : i + 7]) for i in range(0, 400, 7)]
    merged = sum(parts[1:], parts[0])
    assert merged.moments == DecisionWindow.of(PROFILE, records).moments
    assert (DecisionWindow.of(PROFILE, records[:90]).num_requests, merged.num_requests) == (30, MAX_MOMENTS)
    older = {key: value for key, value in merged.to_json().items() if key != "moments"}
    assert DecisionWindow.from_json(older).num_requests == 0


def test_every_row_is_counted_and_wrong_types_count_as_missing():
    rows = [{"age": "old", "plan": None}, {}, {"age": 5, "plan": "z"}]
    records = [{"id": "x", "inputs": row, "score": 0.5, "time": START.isoformat()} for row in rows]
    counts = DecisionWindow.of(PROFILE, records).counts
    assert [counts.features["age"][-1], counts.features["age"].sum()] == [2, 3]
    assert counts.features["plan"].tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("parts", [1, 8])
def test_quantiles_stay_within_rank_error_after_merging(parts):
    values = np.random.default_rng(0).permutation(80_000).astype(float)
    merged = Quantiles()
    for part in np.split(values, parts):
        merged = merged + Quantiles().add([*part, np.nan])
    for share in (0.01, 0.25, 0.5, 0.9):
        assert merged.at(share) == pytest.approx(share * 80_000, abs=0.02 * 80_000)
    assert Quantiles.from_text(merged.to_text()).at(0.5) == merged.at(0.5)
    assert Quantiles().at(0.5) is None
