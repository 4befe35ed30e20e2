"""Who is an example, when, and with which label: rows, and cuts with labels that come late."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.features.worlds import NOW, day, raw, world

from raysaas.errors import InputError
from raysaas.features.examples import cut_times, entities_at, examples
from raysaas.features.raw import raw as read_raw
from raysaas.records import Task
from raysaas.use_case import Column, ExampleKind, Examples, Source, UseCase, View

SIGNUPS = raw([{"entity": entity, "at": at} for entity, at in [("a", 0), ("b", 0), ("late", 35), ("gone", 0)]])
CHURNS = raw([{"entity": "a", "at": 50, "known": 60}, {"entity": "gone", "at": 10}])


def churn_case(**changes: Any) -> UseCase:
    spec = {"cuts": ["2026-01-31", "2026-02-10"], "horizon_days": 20, "label_source": "churns", "until_label": True}
    return UseCase(
        name="churn", sources={"signups": Source(entity="id", time="at"), "churns": Source(entity="id", time="at")},
        examples=Examples(kind=ExampleKind.cuts, source="signups", **{**spec, **changes}),
    )  # fmt: skip


def at(home: Path, use_case: UseCase, as_of: datetime = NOW, **sources: Any) -> list[tuple[Any, ...]]:
    settings, tables = world(home, use_case, **sources)
    table = examples(settings.use_case, read_raw(use_case, tables, as_of))
    return [(row["entity"], row["event_time"], row["label"]) for row in table.to_pylist()]


def test_cuts_look_forward_for_the_label_only(tmp_path: Path) -> None:
    got = at(tmp_path, churn_case(), signups=SIGNUPS, churns=CHURNS)
    first, second = day(30), day(40)
    assert got == [("a", first, "1"), ("a", second, "1"), ("b", first, "0"), ("b", second, "0"), ("late", second, "0")]


def test_the_horizon_is_inclusive_and_starts_after_the_cut(tmp_path: Path) -> None:
    churns = raw([{"entity": "a", "at": 50}, {"entity": "b", "at": 50.001}, {"entity": "late", "at": 30}])
    case = churn_case(cuts=["2026-01-31"], until_label=False)
    signups = raw([{"entity": entity, "at": 0} for entity in ("a", "b", "late")])
    assert [row[2] for row in at(tmp_path, case, signups=signups, churns=churns)] == ["1", "0", "0"]


def test_a_cut_waits_until_its_label_is_settled(tmp_path: Path) -> None:
    case = churn_case(maturity_days=10)
    assert {row[1] for row in at(tmp_path / "a", case, day(70), signups=SIGNUPS, churns=CHURNS)} == {day(30), day(40)}
    assert {row[1] for row in at(tmp_path / "b", case, day(69), signups=SIGNUPS, churns=CHURNS)} == {day(30)}
    with pytest.raises(InputError, match="settled label"):
        at(tmp_path / "c", case, day(59), signups=SIGNUPS, churns=CHURNS)


def test_labels_known_later_than_as_of_do_not_exist(tmp_path: Path) -> None:
    case = churn_case(cuts=["2026-01-31"])
    more = raw([{"entity": "a", "at": 50, "known": 60}, {"entity": "b", "at": 45}])
    got = at(tmp_path, case, day(55), signups=SIGNUPS, churns=more)
    assert {row[0]: row[2] for row in got} == {"a": "0", "b": "1", "gone": "0"}


def test_cuts_are_made_between_the_longest_window_and_the_end_of_the_data(tmp_path: Path) -> None:
    case = churn_case(cuts=[], every_days=15, horizon_days=10)
    case.views = {"v": View(source="signups", windows_days=[7, 14], aggregates=["count"])}
    _, tables = world(tmp_path, case, signups=SIGNUPS, churns=CHURNS)
    assert cut_times(case, read_raw(case, tables, NOW)) == [day(14), day(29), day(44)]


def test_entities_at_leaves_out_the_ended_and_the_unknown(tmp_path: Path) -> None:
    _, tables = world(tmp_path, churn_case(), signups=SIGNUPS, churns=CHURNS)
    found = entities_at(churn_case(), read_raw(churn_case(), tables, NOW), day(30))
    assert sorted(found["entity"].to_pylist()) == ["a", "b"]


def rows_case(task: Task = Task.binary, **changes: Any) -> UseCase:
    return UseCase(
        name="rows", task=task, sources={"log": Source(entity="id", time="at", columns={"y": Column()})},
        examples=Examples(source="log", label="y", **changes),
    )  # fmt: skip


def test_rows_without_a_label_are_no_examples(tmp_path: Path) -> None:
    log = raw([{"entity": "a", "at": n, "y": y} for n, y in enumerate([1.0, None, 0.0])])
    assert at(tmp_path, rows_case(), log=log) == [("a", day(0), "1"), ("a", day(2), "0")]


def test_lead_takes_the_label_of_a_later_row_of_the_same_entity(tmp_path: Path) -> None:
    log = raw(
        [
            {"entity": e, "tenant": t, "at": n, "y": n + 10.0 * (t == "u")}
            for n in (2, 0, 1)
            for e, t in (("a", "t"), ("a", "u"))
        ]
    )
    got = at(tmp_path, rows_case(Task.regression, lead=2), log=log)
    assert got == [("a", day(0), 2.0), ("a", day(0), 12.0)]


def test_rows_of_one_entity_at_one_time_are_told_apart(tmp_path: Path) -> None:
    log = raw([{"entity": "a", "at": 0, "y": value} for value in ("no", "yes", "no")])
    times = [row[1] for row in at(tmp_path, rows_case(), log=log)]
    assert len(set(times)) == 3
    assert (max(times) - min(times)).total_seconds() < 1e-5


@pytest.mark.parametrize(
    ("values", "task"), [([1, 1], Task.binary), ([1, 2, 3], Task.binary), (["x", "x"], Task.multiclass)]
)
def test_too_few_or_too_many_classes_are_said(tmp_path: Path, values: list[Any], task: Task) -> None:
    log = raw([{"entity": "a", "at": n, "y": value} for n, value in enumerate(values)])
    with pytest.raises(InputError, match="class"):
        at(tmp_path, rows_case(task), log=log)


def test_a_source_that_was_never_ingested_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"raw\.rows__log"):
        at(tmp_path, rows_case())
