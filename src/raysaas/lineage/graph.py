"""The graph of what was made from what, and how each record is a node of it; pure."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from raysaas.records import ModelVersion, Release, TrainingSet, plain


@dataclass(frozen=True, slots=True)
class Node:
    """One record: ``kind`` is file, snapshot, training, model, release, decision, decisions or outcome."""

    id: str
    kind: str
    at: datetime | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Graph:
    """Nodes by id, and for each the ids that it was made from (``inputs``) and that were made from it (``outputs``)."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.inputs: dict[str, list[str]] = {}
        self.outputs: dict[str, list[str]] = {}

    def add(self, node: Node, inputs: Iterable[str] = ()) -> None:
        """Add a node, or more inputs of one that is there; an input may be added later itself."""
        self.nodes.setdefault(node.id, node)
        known = self.inputs.setdefault(node.id, [])
        for name in inputs:
            if name not in known:
                known.append(name)
                self.outputs.setdefault(name, []).append(node.id)

    def reach(self, start: str, edges: dict[str, list[str]]) -> list[str]:
        """Ids of all nodes that can be walked to from ``start`` along ``edges``, nearest first, without itself."""
        found, ahead = {start: None}, [start]
        for name in ahead:
            fresh = [other for other in edges.get(name, []) if other in self.nodes and other not in found]
            found.update(dict.fromkeys(fresh))
            ahead += fresh
        return ahead[1:]


def file_nodes(properties: dict[str, str]) -> Iterator[Node]:
    """The source files that a snapshot's properties name."""
    uris = dict(json.loads(properties.get("raysaas.uris", "[]")))
    for digest in json.loads(properties.get("raysaas.files", "[]")):
        yield Node(f"file:{digest}", "file", None, {"uri": uris.get(digest), "sha256": digest})


def training_node(training: TrainingSet) -> Node:
    """A training set as a node."""
    facts = plain(training)
    kept = ("table", "snapshot_id", "num_rows", "content_hash", "feature_service_hash", "as_of")
    name = f"{training.table}@{training.snapshot_id}"
    return Node(name, "training", training.known_at, {key: facts[key] for key in kept})


def model_node(version: ModelVersion) -> Node:
    """A model version as a node."""
    facts = {"version": version.version, "family": str(version.family), "digest": version.digest,
             "released": version.released, "reason": version.reason}  # fmt: skip
    return Node(f"{version.use_case}:v{version.version}", "model", version.at, facts)


def release_node(release: Release) -> Node:
    """A release as a node."""
    facts = {"sequence": release.sequence, "champion": release.champion.version, "actor": release.actor,
             "reason": release.reason}  # fmt: skip
    return Node(f"{release.use_case}#{release.sequence}", "release", release.at, facts)
