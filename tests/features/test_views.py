"""Feature rows of a use case's views: an example's own row, columns of another source, windows over a log."""

from pathlib import Path
from typing import Any

import pytest
from tests.features.worlds import NOW, day, raw, world

from raysaas.errors import InputError
from raysaas.features.raw import Raw
from raysaas.features.raw import raw as read_raw
from raysaas.features.views import feature_names, latest_rows, own_rows, view_rows
from raysaas.settings import Features
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase, View

COLUMNS = {"y": Column(), "x": Column(), "kind": Column(type=ColumnType.category), "note": Column(type=ColumnType.text),
           "off": Column(feature=False), "out": Column()}  # fmt: skip
LOG = raw([
    {"entity": "a", "at": 1, "y": 1.0, "x": 10.0, "kind": "k", "note": "n", "off": 1.0, "out": 1.0},
    {"entity": "a", "at": 0, "y": 0.0, "x": 20.0, "kind": "l", "note": "n", "off": 1.0, "out": 1.0},
    {"entity": "b", "at": 0, "y": 1.0, "x": 30.0, "kind": None, "note": "n", "off": 1.0, "out": 1.0},
])  # fmt: skip


def case(views: dict[str, View] | None = None, **examples: Any) -> UseCase:
    spec = Examples(source="log", label="y", exclude=["out"], **examples)
    return UseCase(name="u", sources={"log": Source(time="at", columns=COLUMNS)}, examples=spec, views=views or {})


def read(home: Path, use_case: UseCase, table: Any = LOG) -> Raw:
    _, tables = world(home, use_case, log=table)
    return read_raw(use_case, tables, NOW)


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
    use_case = case({"c": View(source="log", columns=["nope"])})
    source = read(tmp_path, use_case)
    with pytest.raises(InputError, match=r"views\.c\.columns names \['nope'\]"):
        dict(view_rows(use_case, source, LOG, Features()))
