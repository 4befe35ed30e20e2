"""The encoder: finite, deterministic, the same after JSON, one row at a time or many."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.models.encode import HOT_LEVELS, Encoder
from raysaas.models.encodings import FOLD, NUM_FOLDS, SMOOTHING

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


LEVELS = np.array(["b", "a", "b", "c", None, "b", "a"], dtype=object)
TRUTH = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0])


def encoded(encoding: str, asked: list[str | None], **extra: np.ndarray) -> list[float]:
    """Numbers of ``asked`` as trees see them; the network's inputs must be finite for the same values."""
    encoder = Encoder.fit({"c": LEVELS, **extra}, {"c": "category"}, encodings={"c": encoding}, truth=TRUTH)
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    values = {"c": np.array(asked, dtype=object)}
    assert encoder.categorical == []
    assert np.isfinite(again.dense(values)).all()
    assert np.array_equal(again.matrix(values), encoder.matrix(values), equal_nan=True)
    return [float(value) for value in again.matrix(values)[:, 0]]


def test_an_ordinal_encoding_is_the_place_in_order_of_text_or_of_numbers() -> None:
    assert encoded("ordinal", ["a", "b", "c"]) == [0.0, 1.0, 2.0]
    assert np.isnan(encoded("ordinal", ["z", None])).all()
    grades = np.array(["10", "9", "10", "2"], dtype=object)
    numbers = Encoder.fit({"g": grades}, {"g": "category"}, encodings={"g": "ordinal"})
    assert numbers.matrix({"g": grades})[:, 0].tolist() == [2.0, 1.0, 2.0, 0.0]


def test_a_frequency_encoding_is_the_share_of_training_rows() -> None:
    assert encoded("frequency", ["b", "a", "z"]) == pytest.approx([3 / 7, 2 / 7, 0.0])
    assert math.isnan(encoded("frequency", [None])[0])


def test_a_target_encoding_is_a_smoothed_mean_and_the_prior_where_nothing_is_known() -> None:
    prior = 3 / 7
    assert encoded("target", ["b", "a", "z"]) == pytest.approx(
        [(2 + SMOOTHING * prior) / (3 + SMOOTHING), (0 + SMOOTHING * prior) / (2 + SMOOTHING), prior]
    )
    assert math.isnan(encoded("target", [None])[0])


def test_a_row_that_is_fitted_on_gets_the_mean_of_the_other_folds() -> None:
    rng = np.random.default_rng(0)
    noise = np.array([f"v{n}" for n in rng.integers(0, 200, 2000)], dtype=object)
    truth, folds = rng.integers(0, 2, 2000).astype(float), rng.permutation(np.arange(2000) % NUM_FOLDS)
    fitting = {"c": noise, FOLD: folds}
    encoder = Encoder.fit(fitting, {"c": "category"}, encodings={"c": "target"}, truth=truth)
    seen = np.corrcoef(encoder.matrix({"c": noise})[:, 0], truth)[0, 1]
    out_of_fold = np.corrcoef(encoder.matrix(fitting)[:, 0], truth)[0, 1]
    assert seen > 0.25
    assert abs(out_of_fold) < 0.08
    row = 17
    others = (noise == noise[row]) & (folds != folds[row])
    prior = truth[folds != folds[row]].mean()
    expected = (truth[others].sum() + SMOOTHING * prior) / (others.sum() + SMOOTHING)
    assert encoder.matrix(fitting)[row, 0] == pytest.approx(expected)
    flat = encoder.matrix({"c": np.append(noise, "new"), FOLD: np.append(np.full(2000, -1), 3)})[:, 0]
    assert flat[:2000].tolist() == encoder.matrix({"c": noise})[:, 0].tolist()
    assert flat[2000] == pytest.approx(truth[folds != 3].mean())
    assert "folds" not in json.dumps(encoder.to_json())


def test_a_bundle_of_before_encodings_loads_and_writes_the_same_bytes() -> None:
    old = {"name": "c", "kind": "category", "source_name": "c", "required": False, "has_missing": True,
           "levels": ["b", "a"], "knots": [], "scores": [], "median": 0.0, "scale": 1.0}  # fmt: skip
    encoder = Encoder.from_json({"format": 1, "fields": [old]})
    assert json.dumps(encoder.to_json()) == json.dumps({"format": 1, "fields": [old]})
    assert encoder.categorical == [0]
    onehot = Encoder.fit({"c": LEVELS}, {"c": "category"}, encodings={"c": "onehot"})
    assert onehot == Encoder.fit({"c": LEVELS}, {"c": "category"})


def test_an_encoding_of_a_number_and_a_target_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"encodings\.x=target is for a category: feature 'x' is a number"):
        Encoder.fit({"x": np.ones(2)}, {"x": "number"}, encodings={"x": "target"})
    with pytest.raises(InputError, match="needs the labels"):
        Encoder.fit({"c": LEVELS}, {"c": "category"}, encodings={"c": "target"})
