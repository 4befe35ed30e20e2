"""What the page compares; the page itself is written in tests/cluster/test_drift_report.py."""

from pathlib import Path

import pyarrow as pa
import pytest

from raysaas.drift.report import MAX_ROWS, _comparable, report_path, window_rows, write_report
from raysaas.errors import InputError

from .conftest import Shop, rows


def test_window_rows_are_those_of_the_window(shop: Shop) -> None:
    shop.release(shop.arms[0])
    columns = rows(250, seed=0)
    shop.decide(columns)
    shop.decide(rows(10, seed=1), version=2)
    reports = shop.watch(window=100).poll()
    found = window_rows(shop.root / "journal", reports[1])
    assert found["age"].to_pylist() == columns["age"][100:200].tolist()
    assert found["plan"].to_pylist() == columns["plan"][100:200].tolist()
    assert set(found.column_names) == {"age", "plan", "score"}


def test_only_common_columns_with_values_in_one_type() -> None:
    reference = pa.table({"n": [1, 2], "gone": [1, 2], "flag": [True, None], "mixed": ["1", "2"], "void": [1.0, 2.0]})
    current = pa.table({"n": [1.5], "flag": [1.0], "mixed": [3], "void": pa.array([None], pa.float64()), "new": [1]})
    old, new = _comparable(reference, current)
    assert old.schema == new.schema == pa.schema([("n", "f8"), ("flag", "f8"), ("mixed", "string")])


def test_long_tables_are_thinned_evenly() -> None:
    long = pa.table({"n": range(MAX_ROWS * 3)})
    old, _ = _comparable(long, long)
    assert (old.num_rows, old["n"][0].as_py(), old["n"][-1].as_py()) == (MAX_ROWS, 0, MAX_ROWS * 3 - 1)


@pytest.mark.parametrize("current", [pa.table({"n": pa.array([], pa.int64())}), pa.table({"other": [1]})])
def test_nothing_to_compare_is_said(current: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="drift report needs"):
        write_report(pa.table({"n": [1]}), current, tmp_path / "x.html", "title", psi=0.3)
    assert report_path("/h", "shop", 3, 7) == Path("/h/reports/shop/v3-w7.html")
