"""Feature rows of a use case's views: an example's own row, columns of another source, windows over a log."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.features.worlds import NOW, day, raw, world

from raysaas.errors import ConfigError, InputError
from raysaas.features.derived import lagged
from raysaas.features.known_rows import ordered
from raysaas.features.raw import Raw
from raysaas.features.raw import raw as read_raw
from raysaas.features.views import ROW, feature_names, latest_rows, row_maker, view_rows
from raysaas.settings import Features
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase
from raysaas.view import View

COLUMNS = {"y": Column(), "x": Column(), "kind": Column(type=ColumnType.category), "note": Column(type=ColumnType.text),
           "off": Column(feature=False), "out": Column()}  # fmt: skip
LOG = raw([
    {"entity": "a", "at": 1, "y": 1.0, "x": 10.0, "kind": "k", "note": "n", "off": 1.0, "out": 1.0},
    {"entity": "a", "at": 0, "y": 0.0, "x": 20.0, "kind": "l", "note": "n", "off": 1.0, "out": 1.0},
    {"entity": "b", "at": 0, "y": 1.0, "x": 30.0, "kind": None, "note": "n", "off": 1.0, "out": 1.0},
])  # fmt: skip


def case(views: dict[str, View] | None = None, columns: Any = COLUMNS, **examples: Any) -> UseCase:
    spec = Examples(source="log", label="y", exclude=["out"], **examples)
    return UseCase(name="u", sources={"log": Source(time="at", columns=columns)}, examples=spec, views=views or {})


def read(home: Path, use_case: UseCase, table: Any = LOG) -> Raw:
    _, tables = world(home, use_case, log=table)
    return read_raw(use_case, tables, NOW)


def own_rows(use_case: UseCase, raw: Raw) -> pa.Table:
    """The view of the example's own columns."""
    _, make = row_maker(use_case, ROW, raw)
    return make(raw.read(use_case.examples.source))


def test_an_example_sees_its_own_columns_without_label_text_and_excluded(tmp_path: Path) -> None:
    rows = own_rows(case(), read(tmp_path, case()))
    assert rows.column_names == ["row_id", "tenant", "entity", "event_time", "known_at", "x", "kind"]
    assert rows.select(["entity", "x", "kind"]).to_pylist() == [
        {"entity": "a", "x": 20.0, "kind": "l"}, {"entity": "a", "x": 10.0, "kind": "k"},
        {"entity": "b", "x": 30.0, "kind": None},
    ]  # fmt: skip


def test_the_label_now_is_a_feature_when_it_is_predicted_ahead(tmp_path: Path) -> None:
    assert own_rows(case(lead=1), read(tmp_path, case()))["y"].to_pylist() == [0.0, 1.0, 1.0]


def test_lags_look_back_in_time_within_the_entity(tmp_path: Path) -> None:
    rows = own_rows(case(lags={"y": [1], "x": [1, 2]}), read(tmp_path, case()))
    assert rows["y_lag_1"].to_pylist() == [None, 0.0, None]
    assert rows["x_lag_1"].to_pylist() == [None, 20.0, None]
    assert rows["x_lag_2"].to_pylist() == [None, None, None]


def test_names_that_clash_carry_their_view() -> None:
    views = {"p": View(source="log", windows_days=[7, 28], aggregates=["count"]),
             "q": View(source="log", windows_days=[28], aggregates=["count", "sum:x"])}  # fmt: skip
    names = feature_names(case(views))
    assert names["p"] == {"count_7d": "count_7d", "count_28d": "p_count_28d"}
    assert names["q"] == {"count_28d": "q_count_28d", "sum_x_28d": "sum_x_28d"}


def test_windows_are_rows_at_the_times_asked_for(tmp_path: Path) -> None:
    use_case = case(
        {
            "w": View(source="log", windows_days=[1], aggregates=["count", "sum:x"]),
            "c": View(source="log", columns=["kind"]),
        }
    )
    source = read(tmp_path, use_case)
    asks = raw([{"entity": "a", "at": 1}, {"entity": "a", "at": 1}, {"entity": "b", "at": 3}])
    views = dict(view_rows(use_case, source, asks, Features()))
    got = views["w"].sort_by("entity").select(["entity", "event_time", "known_at", "count_1d", "sum_x_1d"]).to_pylist()
    assert got == [
        {"entity": "a", "event_time": day(1), "known_at": day(1), "count_1d": 1, "sum_x_1d": 10.0},
        {"entity": "b", "event_time": day(3), "known_at": day(3), "count_1d": 0, "sum_x_1d": 0.0},
    ]  # fmt: skip
    assert views["c"].column_names == ["row_id", "tenant", "entity", "event_time", "known_at", "kind"]


def test_a_window_never_counts_what_was_known_later(tmp_path: Path) -> None:
    use_case = case({"w": View(source="log", windows_days=[5], aggregates=["count"])})
    late = raw([{"entity": "a", "at": 1, "known": 4, "y": 1.0}, {"entity": "a", "at": 2, "y": 1.0}])
    source = read(tmp_path, use_case, late)
    asks = raw([{"entity": "a", "at": 3}, {"entity": "a", "at": 4}])
    assert dict(view_rows(use_case, source, asks, Features()))["w"].sort_by("event_time")["count_5d"].to_pylist() == [
        1,
        2,
    ]


def test_the_latest_row_of_each_entity(tmp_path: Path) -> None:
    rows = own_rows(case(), read(tmp_path, case()))
    latest = latest_rows(rows, rows.select(["tenant", "entity"]).slice(1), day(0.5))
    assert latest.select(["entity", "event_time", "x"]).to_pylist() == [
        {"entity": "a", "event_time": day(0), "x": 20.0}, {"entity": "b", "event_time": day(0), "x": 30.0},
    ]  # fmt: skip


def test_a_view_of_a_missing_column_is_named(tmp_path: Path) -> None:
    use_case = case({"c": View(source="log", columns=["nope"])}, columns={})
    source = read(tmp_path, use_case)
    with pytest.raises(InputError, match=r"views\.c names \['nope'\]"):
        dict(view_rows(use_case, source, LOG, Features()))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.integers(0, 3), st.none() | st.integers(0, 9)),
                max_size=14))  # fmt: skip
def test_lags_are_those_of_a_loop_and_known_by_then(rows: list[tuple[str, int, int, int | None]]) -> None:
    table = raw([{"entity": e, "at": at, "known": at + late, "x": x, "when": day(at)} for e, at, late, x in rows]
                or [{"entity": "z", "at": 0, "x": 0, "when": day(0)}])  # fmt: skip
    table = table.set_column(5, "x", table["x"].cast("int64"))
    got = lagged(table, ["when"], {"x": [1, 3], "when": [2]})
    assert got.column_names == [*table.column_names[:5], "when", "x_lag_1", "x_lag_3", "when_lag_2"]
    assert got.schema.field("when_lag_2").type == table.schema.field("when").type
    items = table.to_pylist()
    for item, found in zip(items, got.to_pylist(), strict=True):
        own = [other for other in items if other["entity"] == item["entity"]]
        own.sort(key=lambda row: (row["event_time"], row["known_at"], row["row_id"]))
        for name, column, back in (("x_lag_1", "x", 1), ("x_lag_3", "x", 3), ("when_lag_2", "when", 2)):
            place = own.index(item) - back
            seen = place >= 0 and own[place]["known_at"] <= item["event_time"]
            assert found[name] == (own[place][column] if seen else None), (name, found)


def test_an_examples_own_lag_that_was_not_known_yet_is_null(tmp_path: Path) -> None:
    late = raw([{"entity": "a", "at": 0, "known": 2, "x": 1.0, "y": 0.0}, {"entity": "a", "at": 1, "x": 2.0, "y": 1.0},
                {"entity": "a", "at": 3, "x": 3.0, "y": 1.0}])  # fmt: skip
    rows = own_rows(case(lags={"x": [1, 2]}), read(tmp_path, case(), late))
    assert rows["x_lag_1"].to_pylist() == [None, None, 2.0]
    assert rows["x_lag_2"].to_pylist() == [None, None, 1.0]


def test_ratios_and_differences_are_features_and_never_infinite(tmp_path: Path) -> None:
    view = View(source="log", windows_days=[1, 5], aggregates=["sum:x", "count", "min:x"],
                ratios={"trend": ["sum_x_1d", "sum_x_5d"], "least": ["min_x_1d", "count_1d"]},
                differences={"growth": ["count_5d", "count_1d"]})  # fmt: skip
    use_case = case({"w": view})
    log = raw(
        [{"entity": "a", "at": 0, "x": 3.0}, {"entity": "a", "at": 4, "x": 1.0}, {"entity": "b", "at": 0, "x": 0.0}]
    )
    asks = raw([{"entity": "a", "at": 4}, {"entity": "b", "at": 4}, {"entity": "c", "at": 4}])
    rows = dict(view_rows(use_case, read(tmp_path, use_case, log), asks, Features()))["w"].sort_by("entity")
    assert rows.column_names[4:] == view.features()
    assert rows["trend"].to_pylist() == [0.25, None, None]
    assert rows["least"].to_pylist() == [1.0, None, None]
    assert rows["growth"].to_pylist() == [1.0, 1.0, 0.0]


def test_a_ratio_of_huge_numbers_is_null_and_one_of_text_is_refused(tmp_path: Path) -> None:
    view = View(source="log", columns=["x", "y", "kind"], ratios={"r": ["x", "y"]}, differences={"d": ["x", "y"]})
    log = raw([{"entity": "a", "at": 0, "x": 1e308, "y": 1e-308, "kind": "k"},
               {"entity": "b", "at": 0, "x": math.inf, "y": math.inf, "kind": "k"},
               {"entity": "c", "at": 0, "x": 1.0, "y": None, "kind": "k"}])  # fmt: skip
    use_case = case({"c": view})
    source = read(tmp_path, use_case, log)
    rows = dict(view_rows(use_case, source, log, Features()))["c"]
    assert rows["r"].to_pylist() == [None, None, None]
    assert rows["d"].to_pylist() == [1e308, None, None]
    view.ratios = {"r": ["kind", "y"]}
    with pytest.raises(InputError, match=r"views\.c\.ratios\.r is made of 'kind', which holds string"):
        dict(view_rows(use_case, source, log, Features()))


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"columns": ["kin"]}, r"views\.v names the column 'kin': source 'log' has 'kind'"),
        ({"windows_days": [7], "aggregates": ["sum:kindd"]}, "names the column 'kindd'.*'kind'"),
        ({"lags": {"z": [1]}}, "names the column 'z': source 'log' has "),
        ({"lags": {"x": [0]}}, r"views\.v\.lags=.* is not allowed"),
        ({"aggregates": ["count"]}, "'count' needs windows_days"),
        ({"windows_days": [-1], "aggregates": ["count"]}, r"windows_days=\[-1\]"),
        ({"windows_days": [7], "aggregates": ["median:x"]}, "'median:x' is unknown"),
        ({"windows_days": [7], "aggregates": ["count"], "columns": ["x"]}, "make two views"),
        ({"columns": ["x", "y"], "ratios": {"r": ["x"]}}, r"ratios\.r=\['x'\] is not allowed"),
        ({"windows_days": [7], "aggregates": ["sum:x"], "ratios": {"r": ["sum_x_7d", "sum_x_28d"]}},
         r"ratios\.r names the feature 'sum_x_28d': the view has \['sum_x_7d'\]"),
        ({"columns": ["x", "y"], "differences": {"x": ["x", "y"]}}, "has a feature named 'x' twice"),
    ],
)  # fmt: skip
def test_a_wrong_view_is_said_before_anything_runs(view: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        case({"v": View(source="log", **view)})


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["t", "u", "ü", None]), st.sampled_from(["a", "b", ""]), st.integers(-2, 2),
                          st.sampled_from("zyx")), max_size=30))  # fmt: skip
def test_rows_in_order_are_those_of_a_sort_by_all_columns(rows: list[tuple[str | None, str, int, str]]) -> None:
    names = ["tenant", "entity", "event_time", "row_id"]
    table = pa.table({
        name: pa.array([row[n] for row in rows], pa.timestamp("us", "UTC") if n == 2 else pa.string())
        for n, name in enumerate(names)
    })  # fmt: skip
    halves = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    assert ordered(halves).equals(table.sort_by([(name, "ascending") for name in names]))
