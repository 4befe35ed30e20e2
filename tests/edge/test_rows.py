"""Rows at a site."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.models.encode import Encoder
from raysaas.records import Task
from raysaas_edge import rows

KINDS = {"n": "number", "i": "integer", "b": "boolean", "c": "category"}
ROW = st.fixed_dictionaries({
    "n": st.none() | st.floats(-1e6, 1e6), "i": st.none() | st.integers(-1000, 1000), "b": st.none() | st.booleans(),
    "c": st.none() | st.sampled_from(["x", "y", "z"]),
})  # fmt: skip
SCHEMA = pa.schema([("n", pa.float64()), ("i", pa.int64()), ("b", pa.bool_()), ("c", pa.string())])


@given(st.lists(ROW, min_size=1, max_size=20))
def test_a_table_gives_the_columns_that_a_request_of_the_same_rows_gives(given_rows: list[dict[str, object]]) -> None:
    table = pa.Table.from_pylist(given_rows, SCHEMA)
    found = rows.columns(table, KINDS)
    asked = Encoder.fit(found, KINDS).rows(given_rows)
    for name, kind in KINDS.items():
        if kind == "category":
            assert found[name].tolist() == asked[name].tolist()
        else:
            np.testing.assert_array_equal(found[name], asked[name])


def test_a_column_the_site_lacks_is_missing() -> None:
    found = rows.columns(pa.table({"n": [1.0, 2.0]}), KINDS)
    assert found["c"].tolist() == [None, None]
    assert np.isnan(found["i"]).all()


def test_targets_by_task() -> None:
    labels = pa.chunked_array([["a", "b", "a"]])
    binary = rows.targets(labels, Task.binary, ["b", "a"], (0.0, 1.0))
    assert (binary.tolist(), binary.dtype) == ([1.0, 0.0, 1.0], np.float32)
    several = rows.targets(labels, Task.multiclass, ["b", "c", "a"], (0.0, 1.0))
    assert (several.tolist(), several.dtype) == ([2, 0, 2], np.int64)
    values = rows.targets(pa.chunked_array([[10.0, 14.0]]), Task.regression, [], (10.0, 2.0))
    assert (values.tolist(), values.dtype) == ([0.0, 2.0], np.float32)


def test_labels_that_are_missing_or_strange_are_named() -> None:
    with pytest.raises(InputError, match="1 rows have no label"):
        rows.targets(pa.chunked_array([["a", None]]), Task.binary, ["a", "b"], (0.0, 1.0))
    with pytest.raises(InputError, match="'q'"):
        rows.targets(pa.chunked_array([["a", "q"]]), Task.binary, ["a", "b"], (0.0, 1.0))


def test_files_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        rows.read(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InputError, match="as Parquet"):
        rows.read(tmp_path / "text.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "bare.parquet")
    with pytest.raises(InputError, match="label"):
        rows.read(tmp_path / "bare.parquet")
