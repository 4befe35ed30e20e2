"""The encoder: finite, deterministic, the same after JSON, one row at a time or many."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.models.encode import HOT_LEVELS, Encoder

KINDS = {"amount": "number", "visits": "integer", "paid": "boolean", "plan": "category"}
ANY_FLOAT = st.one_of(
    st.floats(allow_nan=True, allow_infinity=False), st.sampled_from([1e308, -1e308, -0.0, 5e-324, math.inf])
)


def columns(rows: list[tuple]) -> dict[str, np.ndarray]:
    amount, visits, paid, plan = zip(*rows, strict=True)
    return {
        "amount": np.array(amount, dtype=np.float64),
        "visits": np.array(visits, dtype=np.float64),
        "paid": np.array(paid, dtype=np.float64),
        "plan": np.array([*plan, None], dtype=object)[:-1],
    }


TABLES = st.lists(
    st.tuples(
        ANY_FLOAT,
        st.integers(-(2**63), 2**63 - 1).map(float),
        st.sampled_from([0.0, 1.0, math.nan]),
        st.one_of(st.none(), st.text(max_size=3)),
    ),
    min_size=1,
    max_size=30,
).map(columns)


@given(TABLES, TABLES)
@settings(max_examples=150, deadline=None)
def test_dense_is_finite_and_survives_json(train: dict, other: dict) -> None:
    encoder = Encoder.fit(train, KINDS)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    dense = encoder.dense(other)
    assert again == encoder
    assert dense.shape == (len(other["amount"]), encoder.width)
    assert np.isfinite(dense).all()
    assert np.array_equal(dense, again.dense(other))
    assert np.array_equal(encoder.matrix(other), again.matrix(other), equal_nan=True)


@given(TABLES, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_a_row_is_encoded_the_same_alone_and_in_any_batch(train: dict, times: int) -> None:
    encoder = Encoder.fit(train, KINDS)
    batch = encoder.dense({name: np.tile(column, times) for name, column in train.items()})
    for row in range(len(train["amount"])):
        alone = encoder.dense({name: column[row : row + 1] for name, column in train.items()})
        assert np.array_equal(alone[0], batch[row])


@pytest.mark.parametrize("draw", ["lognormal", "standard_cauchy"])
def test_numbers_keep_their_order_and_the_median_lands_in_the_middle(draw: str) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=2000)
    encoder = Encoder.fit({"x": values}, {"x": "number"})
    score, tail = encoder.dense({"x": np.sort(values)}).T
    assert (np.diff(score) >= 0).all()
    assert (np.diff(tail) >= 0).all()
    assert abs(score[1000]) < 0.05
    assert abs(tail[1000]) < 0.05


def test_a_missing_value_is_the_median_with_a_flag_only_where_training_saw_one() -> None:
    seen = Encoder.fit({"x": np.array([1.0, 2.0, 3.0, math.nan])}, {"x": "number"})
    unseen = Encoder.fit({"x": np.array([1.0, 2.0, 3.0])}, {"x": "number"})
    gap, middle = {"x": np.array([math.nan])}, {"x": np.array([2.0])}
    assert seen.width == unseen.width + 1
    assert seen.dense(gap)[0, -1] == 1
    assert seen.dense(middle)[0, -1] == 0
    assert np.array_equal(unseen.dense(gap), unseen.dense(middle))


def test_categories_are_one_hot_by_frequency_then_other_then_missing() -> None:
    levels = [f"v{i:02d}" for i in range(HOT_LEVELS + 3)]
    values = np.array([level for i, level in enumerate(levels) for _ in range(100 - i)] + [None], dtype=object)
    encoder = Encoder.fit({"c": values}, {"c": "category"})
    dense = encoder.dense({"c": np.array(["v00", "v31", "v32", "never seen", None], dtype=object)})
    assert encoder.width == HOT_LEVELS + 2
    assert dense.argmax(axis=1).tolist() == [0, 31, 32, 32, 33]
    assert (dense.sum(axis=1) == 1).all()


def test_an_unseen_level_lights_nothing_where_training_had_no_other() -> None:
    encoder = Encoder.fit({"c": np.array(["a", "b", "a"], dtype=object)}, {"c": "category"})
    assert encoder.dense({"c": np.array(["a", "z", None], dtype=object)}).tolist() == [[1, 0], [0, 0], [0, 0]]


def test_matrix_keeps_raw_numbers_and_codes_by_frequency() -> None:
    table = {"x": np.array([1e308, math.nan, -0.0]), "c": np.array(["b", "a", "b"], dtype=object)}
    encoder = Encoder.fit(table, {"x": "number", "c": "category"})
    matrix = encoder.matrix({"x": table["x"], "c": np.array(["b", "a", "new"], dtype=object)})
    assert encoder.categorical == [1]
    assert np.array_equal(matrix, [[1e308, 0], [math.nan, 1], [0, math.nan]], equal_nan=True)


def test_rare_levels_beyond_a_thousand_have_no_code() -> None:
    values = np.array([f"id{i:04d}" for i in range(1500)] * 2 + ["top"] * 5, dtype=object)
    encoder = Encoder.fit({"c": values}, {"c": "category"})
    codes = encoder.matrix({"c": values})[:, 0]
    assert codes[-1] == 0
    assert np.nanmax(codes) == 999
    assert np.isnan(codes).any()


def test_all_missing_and_constant_columns_stay_harmless() -> None:
    table = {"gone": np.full(5, math.nan), "same": np.full(5, 7.0), "none": np.array([None] * 5, dtype=object)}
    encoder = Encoder.fit(table, {"gone": "number", "same": "integer", "none": "category"})
    dense = encoder.dense(
        {"gone": np.array([1e308]), "same": np.array([-1e308]), "none": np.array(["x"], dtype=object)}
    )
    assert np.isfinite(dense).all()


def test_plain_columns_leave_out_the_normal_scores() -> None:
    table = {"x": np.arange(100.0), "flag": np.arange(100) % 2.0, "c": np.array(["a", "b"] * 50, dtype=object)}
    encoder = Encoder.fit(table, {"x": "number", "flag": "boolean", "c": "category"})
    plain = encoder.dense(table)[:, encoder.plain]
    assert plain.shape == (100, 4)
    assert max(abs(np.corrcoef(column, table["x"])[0, 1]) for column in plain.T) == pytest.approx(1, abs=1e-6)


def test_fit_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(InputError, match="no features"):
        Encoder.fit({}, {})
    with pytest.raises(InputError, match="no column y"):
        Encoder.fit({"x": np.ones(2)}, {"x": "number", "y": "number"})
    with pytest.raises(InputError, match="kind 'text'"):
        Encoder.fit({"x": np.ones(2)}, {"x": "text"})
