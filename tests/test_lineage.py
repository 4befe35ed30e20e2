"""Lineage over real stores: both ways between file, snapshot, training set, version, release, decision and outcome."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState

from raysaas import overview
from raysaas.errors import ConfigError, InputError, NotFound
from raysaas.lineage import runs
from raysaas.lineage import walk as lineage
from raysaas.records import Arm, Family, Release, TrainingSet, plain
from raysaas.settings import Settings, Storage
from raysaas.stores.emitter import events_file
from raysaas.stores.journal import Journal, ship
from raysaas.stores.ledger import Ledger
from raysaas.stores.registry import Registry
from raysaas.stores.tables import MADE_FROM, Tables
from raysaas.use_case import Examples, Source, UseCase

ONE, TWO = "0123456789ab" + "a" * 20, "0123456789ab" + "b" * 20


def case() -> UseCase:
    return UseCase(name="shop", sources={"orders": Source(path="x")}, examples=Examples(source="orders", label="y"))


def digest(letter: str) -> str:
    return letter * 64


def ingested(tables: Tables, letter: str) -> int:
    """A snapshot made from one file, as ingest leaves it."""
    named = {
        "raysaas.files": json.dumps([digest(letter)]),
        "raysaas.uris": json.dumps([[digest(letter), f"/in/{letter}.csv"]]),
    }
    return tables.append("raw.shop__orders", pa.table({"row_id": [letter], "x": [1.0]}), named)


def learnt(settings: Settings, snapshots: dict[str, int], rows: list[str], bundle: Path, family: Family) -> TrainingSet:
    """A training set of ``rows``, and a model version made from it."""
    now = datetime.now(UTC)
    training = TrainingSet(
        use_case="shop", table="training.shop", snapshot_id=0, snapshots=snapshots, feature_service="shop",
        feature_service_hash="f" * 8, as_of=now, known_at=now, num_rows=len(rows), content_hash="c" * 64,
    )  # fmt: skip
    body = {MADE_FROM: json.dumps(plain(training))}
    training = replace(
        training, snapshot_id=Tables(settings.storage).overwrite("training.shop", pa.table({"row_id": rows}), body)
    )
    tags = {"training": json.dumps(plain(training)), "training_snapshot": str(training.snapshot_id)}
    Registry(settings.storage).register(
        "shop", bundle, digest=str(family) * 4, family=family, metrics={}, baseline={}, tags=tags
    )
    return training


def journaled(settings: Settings, kind: str, record: dict[str, Any]) -> None:
    journal = Journal(settings.storage.journal or "", "shop", kind)
    journal.append([{"use_case": "shop", "tenant": "t", "label": "1", **record}])
    journal.close()


def decided(settings: Settings, name: str, version: int, at: datetime) -> None:
    record = {"id": name, "entity": "e", "inputs": {"x": 1}, "version": version, "arm": "champion", "score": 0.5}
    journaled(settings, "decisions", {**record, "time": at.isoformat()})


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Two files, two versions; the second learnt from a decision of the first. Two releases, two decisions."""
    folder = tmp_path_factory.mktemp("shop")
    settings = Settings(use_case=case(), storage=Storage(home=str(folder / "var")))
    tables, ledger = Tables(settings.storage), Ledger(settings.storage.ledger_url or "")
    (folder / "bundle").mkdir()
    first = ingested(tables, "a")
    learnt(settings, {"raw.shop__orders": first}, ["a"], folder / "bundle", Family.linear)
    start = datetime.now(UTC)
    for number, at in ((1, start), (2, start + timedelta(hours=1))):
        arm = Arm(version=number, uri=f"u{number}", digest=f"d{number}")
        ledger.set_release(Release(use_case="shop", sequence=number, champion=arm, actor="me", reason="good", at=at))
    decided(settings, ONE, 1, start + timedelta(minutes=1))
    journaled(settings, "outcomes", {"decision_id": ONE, "observed_at": (start + timedelta(minutes=2)).isoformat()})
    for kind in ("outcomes", "decisions"):
        ship(settings.storage.journal or "", "shop", kind, tables)
    second = ingested(tables, "b")
    logs = {name: tables.current(name) or 0 for name in ("log.decisions", "log.outcomes")}
    learnt(settings, {"raw.shop__orders": second, **logs}, ["a", "b", ONE], folder / "bundle", Family.trees)
    decided(settings, TWO, 2, start + timedelta(hours=2))
    return settings


def kinds(told: dict[str, Any], key: str) -> set[str]:
    names = {node["id"]: node["kind"] for node in told["nodes"]}
    return {f"{names[name]} {name}" for name in told[key]}


def test_a_decision_leads_back_to_the_files_and_on_to_the_version_that_learnt_from_it(shop: Settings) -> None:
    told = lineage.walk(shop, ONE)
    up, down = kinds(told, "made_from"), kinds(told, "led_to")
    assert {"model shop:v1", "release shop#1", f"file file:{digest('a')}"} <= up
    assert not any("shop:v2" in name or digest("b") in name for name in up), "what came later is not behind it"
    assert {f"outcome outcome:{ONE}", "model shop:v2", "release shop#2", "decisions decisions:shop#2:v2"} <= down
    edges = {(edge["from"], edge["to"]) for edge in told["edges"]}
    assert {("shop:v1", ONE), ("shop#1", ONE), (ONE, f"outcome:{ONE}")} <= edges


def test_an_unshipped_decision_of_the_retrained_version_goes_back_to_the_feedback(shop: Settings) -> None:
    up = kinds(lineage.walk(shop, TWO), "made_from")
    assert {
        f"file file:{digest('a')}",
        f"file file:{digest('b')}",
        "decisions decisions:shop#1:v1",
        "model shop:v1",
    } <= up
    assert lineage.walk(shop, TWO)["led_to"] == []


def test_every_form_of_an_id_names_its_record(shop: Settings) -> None:
    snapshots = Tables(shop.storage).snapshots("raw.shop__orders")
    training = Tables(shop.storage).current("training.shop")
    forms = {
        "v1": "shop:v1", "shop:v2": "shop:v2", "release 2": "shop#2", "#1": "shop#1", "shop#1": "shop#1",
        "/in/a.csv": f"file:{digest('a')}", "b.csv": f"file:{digest('b')}", "aaaaaaaa": f"file:{digest('a')}",
        f"orders@{snapshots[0]['snapshot_id']}": f"raw.shop__orders@{snapshots[0]['snapshot_id']}",
        f"orders@{str(snapshots[1]['snapshot_id'])[:8]}": f"raw.shop__orders@{snapshots[1]['snapshot_id']}",
        str(snapshots[0]["snapshot_id"]): f"raw.shop__orders@{snapshots[0]['snapshot_id']}",
        f"training@{training}": f"training.shop@{training}", TWO: TWO,
    }  # fmt: skip
    assert {text: lineage.walk(shop, text)["id"] for text in forms} == forms


def test_a_file_leads_to_every_version_that_learnt_from_it_or_from_what_grew_on_it(shop: Settings) -> None:
    assert {"model shop:v1", "model shop:v2"} <= kinds(lineage.walk(shop, "a.csv"), "led_to")
    later = kinds(lineage.walk(shop, "b.csv"), "led_to")
    assert "model shop:v2" in later
    assert "model shop:v1" not in later


def test_the_text_is_a_tree_and_decisions_are_counted(shop: Settings) -> None:
    text = lineage.walk(shop, "v1")["text"].splitlines()
    assert text[0].startswith("model shop:v1 (linear, ")
    assert text[1] == "made from:"
    assert [line.split("(")[0].rstrip() for line in text[2:5]] == [
        f"  training set {lineage.walk(shop, 'v1')['made_from'][0]}",
        f"    snapshot raw.shop__orders@{Tables(shop.storage).snapshots('raw.shop__orders')[0]['snapshot_id']}",
        "      file /in/a.csv",
    ]
    assert any(line.strip().startswith("1 decisions of v1") for line in text)


def test_unknown_and_unclear_ids_are_said(shop: Settings) -> None:
    with pytest.raises(NotFound, match=r"no record 'v9' of shop: expected .* Did you mean 'shop:v"):
        lineage.walk(shop, "v9")
    with pytest.raises(ConfigError, match="may be any of 2 records"):
        lineage.walk(shop, "raw.shop__orders@")


def test_a_decision_id_that_is_no_id_is_not_found(shop: Settings) -> None:
    with pytest.raises(NotFound, match="no decision"):
        overview.why(shop, "x' or 1 == 1")


def parsed(event: dict[str, Any]) -> RunEvent:
    """An event put through the library's own classes, which check it."""

    def plainly(dataset: dict[str, Any]) -> dict[str, Any]:
        return {key: dataset[key] for key in ("namespace", "name", "facets")}

    return RunEvent(
        eventTime=event["eventTime"], producer=event["producer"], eventType=RunState(event["eventType"]),
        run=Run(**event["run"]), job=Job(**event["job"]),
        inputs=[InputDataset(**plainly(dataset)) for dataset in event.get("inputs", [])],
        outputs=[OutputDataset(**plainly(dataset)) for dataset in event.get("outputs", [])],
    )  # fmt: skip


def test_openlineage_events_tell_the_same_graph(shop: Settings) -> None:
    events = lineage.walk(shop, TWO, openlineage=True)["events"]
    made = [parsed(event) for event in events]
    names = [event.job.name.removeprefix("shop.") for event in made]
    before = ["ingest", "training_set", "train", "deploy", "ship"]
    assert names == [*before, "ingest", "training_set", "train", "serve", "deploy", "serve"]
    train = next(event for event in events if event["job"]["name"] == "shop.train")
    facets = train["inputs"][0]["facets"]
    assert facets["symlinks"]["identifiers"] == [{"namespace": "raysaas", "name": "training.shop", "type": "TABLE"}]
    assert [field["name"] for field in facets["schema"]["fields"]] == ["row_id"]
    read = {(dataset["namespace"], dataset["name"]) for event in events for dataset in event["inputs"]}
    assert {("file", "/in/a.csv"), ("file", "/in/b.csv"), ("raysaas", "models/shop")} <= read
    assert [e["run"]["runId"] for e in lineage.walk(shop, TWO, openlineage=True)["events"]] == [
        e["run"]["runId"] for e in events
    ], "equal records, equal runs"


def told(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events_file(settings.storage.home).read_text().splitlines()]


def test_a_job_tells_what_it_made_and_within_which_it_ran(tmp_path: Path) -> None:
    settings = Settings(use_case=case(), storage=Storage(home=str(tmp_path / "var")))
    snapshot = ingested(Tables(settings.storage), "a")

    def ingest(_: Settings) -> dict[str, Any]:
        source = {
            "num_read": 1,
            "files": ["/in/a.csv"],
            "table": "raw.shop__orders",
            "snapshot_id": snapshot,
            "num_rows": 1,
        }
        return {"sources": {"orders": source, "same": {**source, "num_read": 0}}}

    runs.emits("pipeline")(lambda s: runs.emits("ingest")(ingest)(s))(settings)
    events = told(settings)
    assert [(event["job"]["name"], event["eventType"]) for event in events] == [
        ("shop.pipeline", "START"),
        ("shop.ingest", "START"),
        ("shop.ingest", "COMPLETE"),
        ("shop.pipeline", "COMPLETE"),
    ]
    done = events[2]
    parsed(done)
    assert done["run"]["facets"]["parent"]["run"]["runId"] == events[0]["run"]["runId"] == events[3]["run"]["runId"]
    assert [dataset["name"] for dataset in done["inputs"]] == ["/in/a.csv"]
    assert done["outputs"][0]["facets"]["version"]["datasetVersion"] == str(snapshot)
    assert done["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 1


def test_a_failed_job_says_why_and_an_unexpected_error_keeps_its_values(tmp_path: Path) -> None:
    settings = Settings(use_case=case(), storage=Storage(home=str(tmp_path / "var")))

    def fail(_: Settings, error: BaseException) -> None:
        raise error

    for error in (InputError("the file is empty."), ValueError("row of alice"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            runs.emits("ingest")(fail)(settings, error)
    ends = [event for event in told(settings) if event["eventType"] != "START"]
    said = [(event["eventType"], event["run"]["facets"]["errorMessage"]["message"]) for event in ends]
    assert said == [("FAIL", "the file is empty."), ("FAIL", "ValueError"), ("ABORT", "KeyboardInterrupt")]


def test_a_transport_of_the_library_takes_the_place_of_the_file_and_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "elsewhere"))
    settings = Settings(use_case=case(), storage=Storage(home=str(tmp_path / "one")))
    assert runs.emits("watch")(lambda _: 7)(settings) == 7
    assert len((tmp_path / "elsewhere").read_text().splitlines()) == 2
    assert not events_file(settings.storage.home).exists()
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "no" / "folder"))
    broken = Settings(use_case=case(), storage=Storage(home=str(tmp_path / "two")))
    assert runs.emits("watch")(lambda _: 7)(broken) == 7
    assert "The lineage event of shop.watch was not sent: RuntimeError" in caplog.text


def test_a_version_whose_rows_were_forgotten_still_says_where_they_came_from(tmp_path: Path) -> None:
    settings = Settings(use_case=case(), storage=Storage(home=str(tmp_path / "var")))
    tables = Tables(settings.storage)
    first = ingested(tables, "a")
    (tmp_path / "bundle").mkdir()
    learnt(settings, {"raw.shop__orders": first}, ["a"], tmp_path / "bundle", Family.linear)
    kept = {**tables.snapshots("raw.shop__orders")[0]["properties"], "raysaas.replaces": json.dumps([first])}
    copied = {key: value for key, value in kept.items() if key.startswith("raysaas.")}
    tables.overwrite("raw.shop__orders", pa.table({"row_id": ["a"], "x": [0.0]}), copied)
    tables.table("raw.shop__orders").maintenance.expire_snapshots().by_id(first).commit()
    told = lineage.walk(settings, "v1")
    assert f"raw.shop__orders@{first} (gone: its rows were forgotten or it expired)" in told["text"]
    assert f"file file:{digest('a')}" in kinds(told, "made_from")


def test_the_command_prints_a_tree_json_or_one_event_per_line(shop: Settings) -> None:
    def run(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "raysaas"), *arguments, f"home={shop.storage.home}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        return done.stdout

    # The records are of a use case that has no conf: the full name says it.
    text = run("lineage", TWO, "use_case=saas_churn")
    assert text.splitlines()[0].startswith(f"decision {TWO} (")
    told = json.loads(run("lineage", TWO, "use_case=saas_churn", "--json"))
    assert {"id", "kind", "nodes", "edges", "made_from", "led_to"} == set(told)
    events = [json.loads(line) for line in run("lineage", TWO, "use_case=saas_churn", "--openlineage").splitlines()]
    assert {parsed(event).job.name for event in events} >= {"shop.ingest", "shop.train"}
