"""What was made from what: files, snapshots, training sets, model versions, releases and decisions of a use case.

Nothing is kept for this: every record names its inputs where it lies (snapshot properties, MLflow tags, the ledger, the
journals), and the graph is read from there. Node ids are stable: ``file:SHA256``, ``TABLE@SNAPSHOT`` (sources, training
sets and logs), ``USE_CASE:vN``, ``USE_CASE#N`` (releases), the decision's id, ``outcome:ID``, and ``decisions:...`` for
those of one version under one release, counted.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.lineage.graph import Graph, Node, file_nodes, model_node, release_node, training_node
from raysaas.records import Release, TrainingSet, restored
from raysaas.settings import Storage
from raysaas.stores import journal
from raysaas.stores.ledger import Ledger
from raysaas.stores.matured import reports
from raysaas.stores.tables import MADE_FROM, Tables

LOGS = ("log.decisions", "log.outcomes")


class Provenance:
    """Reads the graph of one use case."""

    def __init__(self, storage: Storage, use_case: str) -> None:
        self.use_case, self.storage = use_case, storage
        self.tables, self.ledger = Tables(storage), Ledger(storage.ledger_url or "")
        self.graph = Graph()
        self._sources()
        self._trainings()
        self._models()
        for release in reversed(self.ledger.releases(use_case)):
            self.graph.add(release_node(release), [f"{use_case}:v{arm.version}" for arm in release.arms()])

    def _sources(self) -> None:
        for table in self.tables.names():
            if table.startswith(f"raw.{self.use_case}__"):
                for item in self.tables.history(table):
                    self._snapshot(table, item)

    def _snapshot(self, table: str, item: dict[str, Any]) -> None:
        files = list(file_nodes(item["properties"]))
        for node in files:
            self.graph.add(node)
        before = [f"{table}@{item['parent']}"] if item["parent"] else []
        facts = {"table": table, "snapshot_id": item["snapshot_id"], "operation": item["operation"],
                 "rows": int(item["properties"].get("total-records", 0))}  # fmt: skip
        node = Node(f"{table}@{item['snapshot_id']}", "snapshot", item["committed_at"], facts)
        self.graph.add(node, [*(file.id for file in files), *before])

    def _trainings(self) -> None:
        for item in self.tables.snapshots(f"training.{self.use_case}"):
            body = item["properties"].get(MADE_FROM)
            if body and item["operation"] != "delete":  # an overwrite is a deletion and an addition
                self._training(restored({**json.loads(body), "snapshot_id": item["snapshot_id"]}))

    def _training(self, training: TrainingSet) -> None:
        for table, snapshot in training.snapshots.items():
            self._named(table, snapshot)
        node = training_node(training)
        self.graph.add(node, [f"{table}@{snapshot}" for table, snapshot in training.snapshots.items()])

    def _named(self, table: str, snapshot: int) -> None:
        """Add a snapshot that a training set names; one that is gone (forgotten, expired) is still a node."""
        if f"{table}@{snapshot}" in self.graph.nodes:
            return
        items = self.tables.snapshots(table)
        found = next((item for item in items if item["snapshot_id"] == snapshot), None)
        if found:
            self._snapshot(table, {**found, "parent": None})  # a log's versions are told by its decisions
            return
        copy = next((i for i in items if snapshot in json.loads(i["properties"].get("raysaas.replaces", "[]"))), None)
        files = list(file_nodes(copy["properties"])) if copy else []
        for node in files:
            self.graph.add(node)
        facts = {"table": table, "snapshot_id": snapshot, "gone": True}
        self.graph.add(Node(f"{table}@{snapshot}", "snapshot", None, facts), [file.id for file in files])

    def _models(self) -> None:
        from raysaas.stores.registry import Registry  # takes a second to import

        registry = Registry(self.storage)
        for version in reversed(registry.versions(self.use_case)):
            source = f"training.{self.use_case}@{version.training_snapshot}"
            if version.training_snapshot and source not in self.graph.nodes:
                self._training(registry.training_set(self.use_case, version.version))
            self.graph.add(model_node(version), [source] if version.training_snapshot else [])

    def made_from(self, start: str) -> list[dict[str, Any]]:
        """The records that ``start`` was made from, nearest first."""
        found = [self.graph.nodes[name] for name in self.graph.reach(start, self.graph.inputs)]
        return [{"id": node.id, "kind": node.kind, "at": node.at, **node.facts} for node in found]

    # --- decisions

    def add_decision(self, decision: dict[str, Any]) -> str:
        """Add a decision, its outcomes, what answered it and the training sets that it became part of."""
        name, number = decision["id"], decision["version"]
        moment = as_time(decision["time"])
        answered = [r for r in self.ledger.releases(self.use_case) if r.at <= moment and number in _versions(r)]
        facts = {key: decision[key] for key in ("tenant", "entity", "version", "arm", "score", "label")}
        made_by = [f"{self.use_case}:v{number}", *(f"{self.use_case}#{r.sequence}" for r in answered[:1])]
        self.graph.add(Node(name, "decision", moment, facts), made_by)
        told = reports(self.storage, decision)
        if told:
            outcome = {"label": told[-1]["label"]}
            self.graph.add(Node(f"outcome:{name}", "outcome", told[-1]["observed_at"], outcome), [name])
        for training in [node for node in self.graph.nodes.values() if node.kind == "training"]:
            self._became(name, training, bool(told))
        return str(name)

    def _became(self, decision: str, training: Node, told: bool) -> None:
        logs = [name for name in self.graph.inputs[training.id] if name.startswith("log.")]
        snapshot = training.facts["snapshot_id"]
        kept = logs and any(i["snapshot_id"] == snapshot for i in self.tables.snapshots(training.facts["table"]))
        if kept and self.tables.count(training.facts["table"], snapshot, f"row_id == '{decision}'"):
            for log in logs:
                source = decision if log.startswith(LOGS[0]) else f"outcome:{decision}"
                if source == decision or told:
                    self.graph.add(self.graph.nodes[log], [source])

    def add_decisions(self) -> None:
        """Add the decisions of each version, counted by the release in force when they were made, and which logs hold
        them.
        """
        for group in self._groups(self._answered()):
            self._group(*group)
        for log in [node for name, node in self.graph.nodes.items() if name.startswith(LOGS[0])]:
            if not log.facts.get("gone"):
                groups = self._groups(self._shipped(log.facts["snapshot_id"]))
                self.graph.add(log, [self._group(*group).id for group in groups])

    def _answered(self) -> pa.Table:
        rows = journal.pending(self.storage.journal or "", self.use_case, "decisions")
        fresh = pa.table({
            "version": pa.array([row["version"] for row in rows], pa.int64()),
            "time": pa.array([as_time(row["time"]) for row in rows], pa.timestamp("us", "UTC")),
        })  # fmt: skip
        current = self.tables.current(LOGS[0])
        return pa.concat_tables([self._shipped(current), fresh]) if current else fresh

    def _shipped(self, snapshot: int) -> pa.Table:
        mine = f"use_case == '{self.use_case}'"
        return self.tables.read(LOGS[0], snapshot=snapshot, columns=["version", "time"], where=mine)

    def _groups(self, decided: pa.Table) -> Iterator[tuple[int, Release | None, int, datetime]]:
        """Version, release, number and last time of the decisions made under each release."""
        releases = self.ledger.releases(self.use_case)
        for version in sorted(pc.unique(decided["version"]).to_pylist()):
            rest = decided.filter(pc.equal(decided["version"], version))["time"]
            for release in [r for r in releases if version in _versions(r)]:
                under = pc.greater_equal(rest, pa.scalar(release.at, rest.type))
                if pc.any(under).as_py():
                    times = rest.filter(under)
                    yield version, release, len(times), pc.max(times).as_py()
                    rest = rest.filter(pc.invert(under))
            if len(rest):
                yield version, None, len(rest), pc.max(rest).as_py()

    def _group(self, version: int, release: Release | None, num: int, last: datetime) -> Node:
        under = f"{self.use_case}#{release.sequence}" if release else self.use_case
        node = Node(f"decisions:{under}:v{version}", "decisions", last, {"version": version, "count": num})
        self.graph.add(node, [f"{self.use_case}:v{version}", *([under] if release else [])])
        return node


def find_record(storage: Storage, use_cases: Iterable[str], kind: str, key: str, value: str) -> dict[str, Any] | None:
    """The newest journaled or shipped record of ``kind`` (decisions, outcomes) whose ``key`` equals ``value``."""
    for use_case in use_cases:
        records = journal.pending(Path(storage.journal or ""), use_case, kind)
        if found := [record for record in records if record[key] == value]:
            return dict(found[-1])
    tables, name = Tables(storage), f"log.{kind}"
    if "'" in value:
        return None
    rows = tables.read(name, where=f"{key} == '{value}'").to_pylist() if tables.exists(name) else []
    if not rows:
        return None
    row = dict(rows[-1])
    return row | {name: json.loads(row[name]) for name in ("inputs", "features_at", "given") if row.get(name)}


def _versions(release: Release) -> set[int]:
    return {arm.version for arm in release.arms()}


def as_time(value: Any) -> datetime:
    """A recorded time, text in journals, as an aware datetime."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
