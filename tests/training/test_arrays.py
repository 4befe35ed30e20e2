"""Arrow to arrays: kinds, missing values, labels and shards."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.training.tables import training_set

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.training.arrays import Target, columns, feature_names, kinds, part, shard


def _labelled(labels: list[object], kind: pa.DataType) -> pa.Table:
    return pa.table({"split": ["train"] * len(labels), "label": pa.array(labels, kind)})


def test_columns_keep_missing_and_turn_booleans_to_numbers() -> None:
    table = pa.table({
        "row_id": ["a", "b", "c"], "split": ["train", "valid", "test"], "label": ["x", "y", "x"],
        "number": pa.array([1.5, None, float("inf")]), "whole": pa.array([1, None, 3]),
        "flag": pa.array([True, None, False]), "word": pa.array(["u", None, "v"]).dictionary_encode(),
    })  # fmt: skip
    assert feature_names(table) == ["number", "whole", "flag", "word"]
    assert kinds(table) == {"number": "number", "whole": "integer", "flag": "boolean", "word": "category"}
    found = columns(table)
    np.testing.assert_array_equal(found["number"], [1.5, np.nan, np.nan])
    np.testing.assert_array_equal(found["whole"], [1, np.nan, 3])
    np.testing.assert_array_equal(found["flag"], [1, np.nan, 0])
    assert found["word"].tolist() == ["u", None, "v"]
    assert part(table, "valid", "test").column("row_id").to_pylist() == ["b", "c"]


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [
        (["No", "Yes", "No"], None, ["No", "Yes"]),
        (["Yes", "Yes", "No"], None, ["No", "Yes"]),
        (["good", "good", "odd"], None, ["good", "odd"]),
        (["good", "good", "odd"], "good", ["odd", "good"]),
        (["0", "1", "1"], None, ["0", "1"]),
    ],
)
def test_the_positive_label_is_the_named_the_usual_or_the_rarer(
    labels: list[object], positive: str | None, expected: list[str]
) -> None:
    table = _labelled(labels, pa.string())
    target = Target.fit(table, Task.binary, positive)
    assert target.labels == expected
    assert target.encode(table).tolist() == [float(label == expected[1]) for label in labels]


def test_regression_labels_are_standardised_on_request() -> None:
    table = training_set(500, Task.regression)
    target = Target.fit(table, Task.regression)
    scaled = target.encode(part(table, "train", "valid"))
    assert abs(scaled.mean()) < 1e-4
    assert scaled.std() == pytest.approx(1, abs=1e-4)
    raw = np.array(table.column("label").to_pylist())
    np.testing.assert_allclose(target.encode(table) * target.std + target.mean, raw, rtol=1e-4)
    np.testing.assert_allclose(target.encode(table, scaled=False), raw, rtol=1e-6)


@pytest.mark.parametrize(
    ("labels", "kind", "task", "positive", "said"),
    [
        (["a", "a"], pa.string(), Task.binary, None, r"\['a'\]"),
        (["a", "b", "c"], pa.string(), Task.binary, None, "two classes"),
        (["a", "b"], pa.string(), Task.binary, "z", "'z'"),
        (["a"], pa.string(), Task.multiclass, None, "two or more"),
        ([2.0, 2.0], pa.float64(), Task.regression, None, "constant"),
    ],
)
def test_labels_with_nothing_to_learn_are_refused(
    labels: list[object], kind: pa.DataType, task: Task, positive: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Target.fit(_labelled(labels, kind), task, positive)


def test_a_label_that_training_never_saw_is_refused() -> None:
    target = Target.fit(_labelled(["a", "b"], pa.string()), Task.multiclass)
    with pytest.raises(InputError, match="'c'"):
        target.encode(_labelled(["a", "c"], pa.string()))


@given(num_rows=st.integers(1, 60), world=st.integers(1, 7))
def test_shards_are_equally_long_and_cover_all_rows(num_rows: int, world: int) -> None:
    table = pa.table({"i": list(range(num_rows))})
    shards = [shard(table, rank, world).column("i").to_pylist() for rank in range(world)]
    assert len({len(rows) for rows in shards}) == 1
    assert {row for rows in shards for row in rows} == set(range(num_rows))
    assert sum(map(len, shards)) < num_rows + world
