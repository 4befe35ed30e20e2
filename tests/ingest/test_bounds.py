"""Rules of a whole batch, and the order in which sources are read."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from raysaas.errors import ConfigError
from raysaas.ingest.bounds import broken_bounds
from raysaas.ingest.findings import Broken, Findings, last_accepted
from raysaas.ingest.ordering import reading_order
from raysaas.use_case import Bounds, Column, OnBroken, Source

NOW = datetime(2025, 6, 1, tzinfo=UTC)
BATCH = Findings(at=NOW.isoformat(), accepted=100, nulls={"x": 10, "y": 0})
LAST = Findings(at=NOW.isoformat(), accepted=80, nulls={"x": 4})


def _names(source: Source, batch: Findings = BATCH, last: Findings | None = LAST) -> list[tuple[str, str, str]]:
    return [(f.rule, f.column, f.action) for f in broken_bounds(source, batch, last, NOW)]


@pytest.mark.parametrize(
    ("inside", "outside", "rule"),
    [
        (Bounds(min_rows=100), Bounds(min_rows=101), "min_rows"),
        (Bounds(max_rows=100), Bounds(max_rows=99), "max_rows"),
        (Bounds(min_row_ratio=1.25), Bounds(min_row_ratio=1.26), "min_row_ratio"),
        (Bounds(max_row_ratio=1.25), Bounds(max_row_ratio=1.24), "max_row_ratio"),
    ],
)
def test_bounds_are_inside(inside: Bounds, outside: Bounds, rule: str) -> None:
    assert _names(Source(bounds=inside)) == []
    assert _names(Source(bounds=outside)) == [(rule, "", "refuse_batch")]


def test_ratios_need_a_batch_before() -> None:
    assert _names(Source(bounds=Bounds(min_row_ratio=9, max_null_increase=0)), last=None) == []


def test_nulls_are_bound_by_a_rate_and_by_an_increase() -> None:
    columns = {"x": Column(max_null_rate=0.1), "y": Column(max_null_rate=0)}
    assert _names(Source(columns=columns)) == []
    columns["x"].max_null_rate = 0.09
    assert _names(Source(columns=columns, on_broken={"x.max_null_rate": OnBroken.warn})) == [
        ("max_null_rate", "x", "warn")
    ]
    assert _names(Source(bounds=Bounds(max_null_increase=0.05))) == []
    assert _names(Source(bounds=Bounds(max_null_increase=0.049))) == [("max_null_increase", "x", "refuse_batch")]


def test_freshness_is_the_age_of_the_newest_event() -> None:
    source = Source(time="t", max_age_hours=2)
    assert _names(source, replace(BATCH, newest=(NOW - timedelta(hours=2)).isoformat())) == []
    old = replace(BATCH, newest=(NOW - timedelta(hours=2, minutes=1)).isoformat())
    assert _names(source, old) == [("max_age_hours", "t", "refuse_batch")]


def test_findings_keep_places_and_no_values() -> None:
    found = replace(BATCH, rules=(Broken("min", "x", 3, "secret", "f.csv", 7),))
    assert "secret" not in found.to_json()
    told = [found, replace(found, accepted=1, kind="replay"), replace(found, accepted=2, committed=False)]
    again = last_accepted({"properties": {"raysaas.contract": one.to_json()}} for one in told)
    assert again == replace(found, rules=(Broken("min", "x", 3, None, "f.csv", 7),))
    assert last_accepted([{"properties": {}}]) is None


def test_sources_are_read_after_those_they_refer_to() -> None:
    sources = {
        "c": Source(references={"x": "b.id"}), "d": Source(), "b": Source(references={"x": "a.id", "y": "d.id"}),
        "a": Source(),
    }  # fmt: skip
    order = reading_order(sources)
    assert sorted(order) == ["a", "b", "c", "d"]
    assert order.index("a") < order.index("b") < order.index("c")
    assert order.index("d") < order.index("b")
    assert reading_order({"z": Source(), "a": Source()}) == ["z", "a"]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"a": {"x": "b.id"}, "b": {"x": "a.id"}}, "references go in a circle"),
        ({"a": {"x": "a.id"}}, "references go in a circle, a -> a"),
        ({"a": {"x": "nowhere.id"}}, r"references.x='nowhere.id' is not allowed: expected SOURCE.COLUMN"),
        ({"a": {"x": "b"}, "b": {}}, "expected SOURCE.COLUMN"),
    ],
)
def test_references_that_lead_nowhere_are_told(references: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        reading_order({name: Source(references=mine) for name, mine in references.items()})
    with pytest.raises(ConfigError, match="names no column of b: expected one of id"):
        reading_order({"a": Source(references={"x": "b.it"}), "b": Source(columns={"id": Column()})})
