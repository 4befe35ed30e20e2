"""One comparison while it runs: decisions, shadow scores, outcomes and replicas' counts in, evidence out; pure.

It is told records as journals hold them and remembers what a verdict needs, in plain JSON types, so that a process
killed anywhere goes on from what was saved. Decisions of an entity count for the split once per stage, and its outcomes
count once per arm: arms are drawn for entities, and one that asks often is one observation.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raysaas.records import Task
from raysaas.release.blocks import CHALLENGER, CHAMPION, Block, Loss
from raysaas.release.seen import Seen, place
from raysaas.release.tally import NUM_BINS, Tally
from raysaas.release.verdict import Evidence

MAX_PENDING = 20_000
_CONTROLS = 4.0  # of the champion's entities are followed, for one of the largest challenger's
_EDGES_OF = 200  # scores of the champion that say where the bins of all scores are


@dataclass(slots=True, kw_only=True)
class Contest:
    """One version against the champion."""

    block: Block
    evidence: Evidence = field(default_factory=Evidence)
    num_outcomes: int = 0

    def add(self, side: str, kind: str, value: float) -> None:
        """One outcome of a side."""
        self.num_outcomes += side == CHALLENGER
        self.block.add(side, kind, value)
        difference = self.block.close()
        if difference is not None:
            self.evidence = self.evidence.add([difference])

    def told(self, version: int) -> dict[str, Any]:
        """How it stands, in plain JSON types."""
        return {"version": version, "outcomes": self.num_outcomes, "gain": self.evidence.mean()}


@dataclass(slots=True, kw_only=True)
class Trial:
    """A running canary, A/B test or shadow.

    ``versions`` maps an arm's name, the champion's included, to its version; ``shares`` to its share of the traffic.
    ``since`` is when it began and ``stage_since`` when the shares last changed (ISO times). ``num`` counts decisions of
    this stage, ``split`` its entities. ``pending`` maps a decision's id to what is kept of it until its outcome comes,
    ``keys`` a caller's own key to that id; entities and keys are kept as hashes. ``labels`` of a binary task are
    (negative, positive).
    """

    id: str
    task: str
    labels: list[str]
    versions: dict[str, int]
    since: str
    paired: bool = False
    shares: dict[str, float] = field(default_factory=dict)
    stage: int = 0
    stage_since: str = ""
    num: dict[str, int] = field(default_factory=dict)
    split: dict[str, int] = field(default_factory=dict)
    contests: dict[str, Contest] = field(default_factory=dict)
    tallies: dict[str, Tally] = field(default_factory=dict)
    loss: Loss = field(default_factory=Loss)
    edges: list[float] = field(default_factory=list)
    first_scores: list[float] = field(default_factory=list)
    pending: dict[str, list[Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    entities: Seen = field(default_factory=Seen)
    judged: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        kinds = ("0", "1") if self.task == Task.binary else ("",)
        for name in self.versions:
            self.tallies.setdefault(name, Tally())
            if name != CHAMPION:
                self.contests.setdefault(name, Contest(block=Block(kinds=kinds)))

    def enter(self, stage: int, since: str, shares: Mapping[str, float]) -> None:
        """Take other shares: what is counted per stage starts anew."""
        if stage != self.stage:
            self.stage, self.stage_since, self.shares = stage, since, dict(shares)
            self.num, self.split, self.entities = {}, {}, Seen()

    def decision(self, record: Mapping[str, Any], settled: str) -> None:
        """An answered row. Those before the time ``settled`` may still be split as the stage before was."""
        arm = str(record["arm"])
        if self.versions.get(arm) != record["version"] or record["time"] < self.since:
            return
        unit = (str(record["tenant"]), str(record["entity"] or record["id"]))
        if record["time"] >= self.stage_since:
            self.num[arm] = self.num.get(arm, 0) + 1
        if record["time"] >= settled and self.entities.first(*unit):
            self.split[arm] = self.split.get(arm, 0) + 1
        if arm != CHAMPION or self.paired or self._control(unit):
            self.tallies[arm].decision(record["inputs"])
            self._score(arm, float(record["score"]))
            self._keep(record, arm, unit)

    def shadow(self, record: Mapping[str, Any]) -> None:
        """What the shadow would have answered to a decision."""
        (name,) = self.contests
        if self.paired and self.versions[name] == record["version"] and record["decision_id"] in self.pending:
            self.num[name] = self.num.get(name, 0) + 1
            self._score(name, float(record["score"]))
            self.pending[record["decision_id"]][3] = {"score": record["score"], "label": record["label"]}

    def outcome(self, record: Mapping[str, Any]) -> None:
        """What really happened; the first for a decision counts."""
        own = _hash(str(record.get("tenant")), str(record.get("key")))
        kept = self.pending.pop(str(record.get("decision_id") or self.keys.pop(own, "")), None)
        if kept is None or not self.judged.first(kept[0], kept[2]):
            return
        arm, predicted, _, shadow = kept
        truth = str(record["label"])
        if self.paired and shadow is None:
            return
        for name, contest in self.contests.items():
            if arm in (CHAMPION, name):
                self._observe(contest, CHAMPION if arm == CHAMPION else CHALLENGER, predicted, truth)
            if self.paired:
                self._observe(contest, CHALLENGER, shadow, truth)

    def stats(self, record: Mapping[str, Any]) -> None:
        """A replica's counts of one arm in one second."""
        arm = str(record["arm"])
        if self.versions.get(arm) == record["version"] and record["time"] >= self.since:
            self.tallies[arm].stats(record)

    def _observe(self, contest: Contest, side: str, predicted: Mapping[str, Any], truth: str) -> None:
        if self.task == Task.binary:
            if truth in self.labels:
                contest.add(side, "1" if truth == self.labels[1] else "0", float(predicted["score"]))
        elif (loss := self.loss.of(side, predicted, truth)) is not None:
            contest.add(side, "", loss)

    def _control(self, unit: tuple[str, str]) -> bool:
        largest = max((share for name, share in self.shares.items() if name != CHAMPION), default=0.0)
        followed = _CONTROLS * largest / max(self.shares.get(CHAMPION, 1.0), 1e-9)
        return place("control", *unit) < followed * 2**64

    def _score(self, arm: str, score: float) -> None:
        if self.edges:
            self.tallies[arm].score(score, self.edges)
        elif arm == CHAMPION:
            self.first_scores.append(score)
            if len(self.first_scores) >= _EDGES_OF:
                self.edges = np.quantile(self.first_scores, np.linspace(0, 1, NUM_BINS + 1)[1:-1]).tolist()
                self.first_scores = []

    def _keep(self, record: Mapping[str, Any], arm: str, unit: tuple[str, str]) -> None:
        predicted = {"score": record["score"], "label": record["label"]}
        self.pending[record["id"]] = [arm, predicted, _hash(*unit), None]
        if record.get("key") is not None:
            self.keys[_hash(str(record["tenant"]), str(record["key"]))] = record["id"]
        if len(self.pending) > MAX_PENDING:
            del self.pending[next(iter(self.pending))]
        if len(self.keys) > MAX_PENDING:
            del self.keys[next(iter(self.keys))]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"entities", "judged", "tallies", "contests", "loss"}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        return plain | {
            "entities": self.entities.to_text(),
            "judged": self.judged.to_text(),
            "loss": asdict(self.loss),
            "tallies": {name: tally.to_json() for name, tally in self.tallies.items()},
            "contests": {name: asdict(contest) for name, contest in self.contests.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Inverse of ``to_json``."""
        return cls(**{
            **data,
            "entities": Seen(data["entities"]),
            "judged": Seen(data["judged"]),
            "loss": Loss(**data["loss"]),
            "tallies": {name: Tally(**tally) for name, tally in data["tallies"].items()},
            "contests": {name: _contest(told) for name, told in data["contests"].items()},
        })  # fmt: skip


def _hash(*parts: str) -> str:
    return f"{place(*parts):016x}"


def _contest(told: Mapping[str, Any]) -> Contest:
    block = Block(kinds=tuple(told["block"]["kinds"]), values=dict(told["block"]["values"]))
    return Contest(block=block, evidence=Evidence(**told["evidence"]), num_outcomes=told["num_outcomes"])
