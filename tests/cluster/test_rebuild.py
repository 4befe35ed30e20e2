"""A model version is built again, after history was back-filled and more outcomes came: equal rows, equal weights."""

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raysaas import lifecycle
from raysaas.errors import ConfigError, NotFound
from raysaas.lineage import walk as lineage
from raysaas.settings import Model, Settings, Storage, Train
from raysaas.stores.emitter import events_file
from raysaas.stores.journal import Journal
from raysaas.stores.registry import Registry
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, ExampleKind, Examples, Source, UseCase, View

pytestmark = pytest.mark.usefixtures("ray_cluster")

T0 = datetime(2026, 1, 1, tzinfo=UTC)
CUTS = [f"2026-0{month}-01" for month in range(2, 8)]
EVENTS = {"who": Column(type=ColumnType.text), "at": Column(type=ColumnType.time), "spent": Column(),
          "kind": Column(type=ColumnType.category)}  # fmt: skip
MODEL = Model(families=["linear", "trees"], num_trees=20)
AGGREGATES = ["count", "sum:spent", "mean:spent"]
ENDS = {"who": Column(type=ColumnType.text), "at": Column(type=ColumnType.time)}


def use_case() -> UseCase:
    return UseCase(
        name="again",
        sources={
            "events": Source(path="events-*.csv", entity="who", time="at", columns=EVENTS),
            "ends": Source(path="ends-*.csv", entity="who", time="at", columns=ENDS),
        },
        examples=Examples(kind=ExampleKind.cuts, source="events", label_source="ends", cuts=CUTS, horizon_days=30),
        views={"activity": View(source="events", windows_days=[30, 90], aggregates=AGGREGATES)},
    )


def write(path: Path, rows: list[list[Any]], *names: str) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])


def events(entities: range, seed: int) -> list[list[Any]]:
    """Some events of each entity within half a year."""
    draw = np.random.default_rng(seed)
    return [
        [f"e{entity}", (T0 + timedelta(days=float(at))).isoformat(), round(float(draw.gamma(2.0)), 3), "ab"[entity % 2]]
        for entity in entities
        for at in draw.uniform(0, 180, 8)
    ]


def outcomes(settings: Settings, numbers: range) -> None:
    """Decisions and what then happened, journaled and shipped to Iceberg."""
    at = (T0 + timedelta(days=200)).isoformat()
    inputs = {"count_30d": 3, "sum_spent_30d": 2.5, "mean_spent_30d": 1.0}
    made = [
        {"id": f"d{n}", "use_case": "again", "tenant": "default", "entity": f"e{n}", "version": 1, "arm": "champion",
         "inputs": {**inputs, "count_90d": n}, "score": 0.5, "label": "1", "time": at}
        for n in numbers
    ]  # fmt: skip
    told = [
        {"decision_id": f"d{n}", "use_case": "again", "tenant": "default", "label": str(n % 2), "observed_at": at}
        for n in numbers
    ]
    for kind, records in {"decisions": made, "outcomes": told}.items():
        journal = Journal(settings.storage.journal or "", "again", kind)
        journal.append(records)
        journal.close()
    lifecycle.ship(settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[dict[str, Any]]]:
    """Two families trained on two files and 300 outcomes; then older rows and 300 more outcomes came."""
    folder = tmp_path_factory.mktemp("again")
    settings = Settings(
        use_case=use_case(), storage=Storage(home=str(folder / "var")), data_dir=str(folder),
        model=MODEL, train=Train(num_workers=1),
    )  # fmt: skip
    write(folder / "events-1.csv", events(range(400), 1), *EVENTS)
    write(
        folder / "ends-1.csv",
        [[f"e{n}", (T0 + timedelta(days=20 + n / 3)).isoformat()] for n in range(0, 400, 3)],
        *ENDS,
    )
    lifecycle.ingest(settings)
    outcomes(settings, range(300))
    first = lifecycle.train(settings)["versions"]
    write(folder / "events-2.csv", events(range(50, 450), 2), *EVENTS)
    write(folder / "ends-2.csv", [[f"e{n}", (T0 + timedelta(days=30)).isoformat()] for n in range(1, 100, 3)], *ENDS)
    lifecycle.ingest(settings)
    outcomes(settings, range(300, 600))
    return settings, first


def again(settings: Settings, as_of: str, **more: Any) -> Settings:
    train = Train(num_workers=1, as_of=as_of)
    return Settings(**{"use_case": settings.use_case, "storage": settings.storage, "data_dir": settings.data_dir,
                       "model": MODEL, "train": train, **more})  # fmt: skip


def test_a_version_is_rebuilt_with_equal_rows_and_equal_weights(trained: tuple[Settings, list[dict[str, Any]]]) -> None:
    settings, first = trained
    registry = Registry(settings.storage)
    was = registry.training_set("again", 2)
    assert set(was.snapshots) == {"raw.again__events", "raw.again__ends", "log.decisions", "log.outcomes"}
    second = lifecycle.train(again(settings, "v2"))["versions"]
    assert [v["family"] for v in second] == [v["family"] for v in first] == ["linear", "trees"]
    assert [v["digest"] for v in second] == [v["digest"] for v in first], "equal seeds give equal bytes"
    assert registry.training_set("again", second[0]["version"]).content_hash == was.content_hash
    newest = lifecycle.materialize(settings)["training_set"]
    assert newest["content_hash"] != was.content_hash, "the newer rows would have made a difference"


def test_later_rows_and_outcomes_do_not_reach_back_to_a_time(trained: tuple[Settings, list[dict[str, Any]]]) -> None:
    settings, _ = trained
    tables, registry = Tables(settings.storage), Registry(settings.storage)
    at = registry.training_set("again", 2).known_at
    then = lifecycle.materialize(again(settings, at.isoformat()))["training_set"]
    assert then["content_hash"] == registry.training_set("again", 2).content_hash
    assert then["snapshots"] == registry.training_set("again", 2).snapshots
    before_outcomes = tables.snapshots("log.outcomes")[0]["committed_at"] - timedelta(milliseconds=1)
    early = lifecycle.materialize(again(settings, before_outcomes.isoformat()))["training_set"]
    assert set(early["snapshots"]) == {"raw.again__events", "raw.again__ends"}
    history = lifecycle.materialize(again(settings, "2026-06-15"))["training_set"]
    assert history["snapshots"]["raw.again__events"] == tables.current("raw.again__events"), (
        "nothing was committed then"
    )
    assert history["num_rows"] < early["num_rows"], "later cuts had no label yet"


def test_conf_that_makes_other_rows_is_named(trained: tuple[Settings, list[dict[str, Any]]]) -> None:
    settings, _ = trained
    other = again(settings, "v2", use_case=use_case())
    other.use_case.title = "another title"
    other.use_case.views["activity"].windows_days = [30, 60]
    other.use_case.sources["ends"].unique = ["who", "at"]
    with pytest.raises(ConfigError, match=r"use_case\.sources\.ends, use_case\.views\.activity changed since"):
        lifecycle.materialize(other)
    other.use_case.views["activity"].windows_days = [30, 90]
    same = lifecycle.materialize(other)["training_set"]
    assert same["content_hash"] == Registry(settings.storage).training_set("again", 2).content_hash, "no row differs"


def test_the_events_and_the_lineage_of_these_jobs_name_the_files(
    trained: tuple[Settings, list[dict[str, Any]]],
) -> None:
    settings, first = trained
    events = [json.loads(line) for line in events_file(settings.storage.home).read_text().splitlines()]
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        runs.setdefault(event["run"]["runId"], []).append(event)
    assert all([e["eventType"] for e in run] in (["START", "COMPLETE"], ["START", "FAIL"]) for run in runs.values())
    done = [event for event in events if event["eventType"] == "COMPLETE"]
    jobs = [event["job"]["name"].removeprefix("again.") for event in done]
    assert jobs[:6] == ["ingest", "ship", "training_set", "train", "ingest", "ship"]
    folder = settings.data_dir
    assert {data["name"] for data in done[0]["inputs"]} == {f"{folder}/events-1.csv", f"{folder}/ends-1.csv"}
    assert {data["name"] for data in done[4]["inputs"]} == {f"{folder}/events-2.csv", f"{folder}/ends-2.csv"}
    versions = [data["facets"]["version"]["datasetVersion"] for data in done[3]["outputs"]]
    assert versions == [str(version["version"]) for version in first]
    told = lineage.walk(settings, "v2")
    assert told["kind"] == "model"
    files = {node["uri"] for node in told["nodes"] if node["kind"] == "file"}
    assert files == {f"{folder}/events-1.csv", f"{folder}/ends-1.csv"}, "the later files are not behind it"


@pytest.mark.parametrize(
    ("as_of", "error", "said"),
    [
        ("v99", NotFound, "no version 99"),
        ("yesterday", ConfigError, r"train\.as_of='yesterday' is not allowed: expected a model version"),
        ("2999-01-01", ConfigError, "past"),
    ],
)
def test_what_cannot_be_rebuilt_is_said(
    trained: tuple[Settings, list[dict[str, Any]]], as_of: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        lifecycle.materialize(again(trained[0], as_of))


def test_a_version_keeps_its_snapshots_until_they_are_dropped(trained: tuple[Settings, list[dict[str, Any]]]) -> None:
    settings, _ = trained
    tables = Tables(settings.storage)
    was = Registry(settings.storage).training_set("again", 2)
    for name, snapshot in {**was.snapshots, was.table: was.snapshot_id}.items():
        assert tables.tags(name)["again-v2"] == snapshot
    table = tables.table("raw.again__ends")
    held = [
        tag for tag, snapshot in tables.tags("raw.again__ends").items() if snapshot == was.snapshots["raw.again__ends"]
    ]
    for tag in held:
        table.manage_snapshots().remove_tag(tag).commit()
    table.maintenance.expire_snapshots().by_id(was.snapshots["raw.again__ends"]).commit()
    with pytest.raises(NotFound, match=r"snapshot \d+ of raw\.again__ends is gone"):
        lifecycle.materialize(again(settings, "v2"))
