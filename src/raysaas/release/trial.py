"""One comparison while it runs: decisions, shadow scores, outcomes and replicas' counts in, evidence out; pure.

It is told records as journals hold them and remembers what a verdict needs, in plain JSON types, so that a process
killed anywhere goes on from what was saved. Decisions of an entity count for the split once per stage, and its outcomes
count once per arm: arms are drawn for entities, and one that asks often is one observation. Of several outcomes of a
decision the newest counts, however late it is, among the ``MAX_COUNTED`` decisions that were counted last.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from raysaas.records import Task
from raysaas.release.blocks import CHALLENGER, CHAMPION, Block, Loss
from raysaas.release.contest import Contest, Reading
from raysaas.release.seen import Seen, place
from raysaas.release.tally import NUM_BINS, Tally
from raysaas.stores.outcomes import ByKey, Told, key_name, name_of

MAX_PENDING = 20_000
MAX_COUNTED = 20_000  # decisions whose outcome was counted and can still be corrected
MAX_EARLY = 20_000  # outcomes by the caller's own key that are kept for decisions still to come
_CONTROLS = 4.0  # of the champion's entities are followed, for one of the largest challenger's
_EDGES_OF = 200  # scores of the champion that say where the bins of all scores are

Answer = Mapping[str, Any]  # score and label


@dataclass(slots=True, kw_only=True)
class Trial:
    """A running canary, A/B test or shadow.

    ``versions`` maps an arm's name, the champion's included, to its version; ``shares`` to its share of the traffic.
    ``since`` is when it began and ``stage_since`` when the shares last changed (ISO times). ``num`` counts decisions of
    this stage, ``split`` its entities. ``pending`` maps a decision to what is kept of it until its outcome comes
    (arm, prediction, entity, prediction of the shadow, an outcome that came early), ``counted`` to what is kept then
    (arm, both predictions, the outcome, block by contest and side), ``keys`` a caller's own key to decisions; entities
    and keys are kept as hashes. ``labels`` of a binary task are (negative, positive).
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
    counted: dict[str, list[Any]] = field(default_factory=dict)
    keys: dict[str, list[str]] = field(default_factory=dict)
    num_keys: int = 0
    early: ByKey = field(default_factory=lambda: ByKey(MAX_EARLY))
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
        decision = name_of(record.get("tenant"), record["decision_id"])
        kept = self.pending.get(decision)
        if self.paired and self.versions[name] == record["version"] and kept is not None:
            self.num[name] = self.num.get(name, 0) + 1
            self._score(name, float(record["score"]))
            kept[3] = {"score": record["score"], "label": record["label"]}
            if kept[4] is not None:
                self._tell(decision, Told(*kept[4]))

    def outcome(self, record: Mapping[str, Any]) -> None:
        """What really happened: counted once, corrected by one that counts more."""
        told = Told.of(record)
        if told is None:
            return
        if record.get("decision_id"):
            self._tell(name_of(record.get("tenant"), record["decision_id"]), told)
        elif record.get("key") is not None:
            self.early.add(record, told)
            for key in self.keys.get(key_name(record), ()):
                self._tell(key, told)

    def _tell(self, key: str, told: Told) -> None:
        if (kept := self.pending.pop(key, None)) is not None:
            self._count(key, kept, told)
        elif (known := self.counted.get(key)) is not None and told > Told(*known[3]):
            self._correct(known, told)

    def _count(self, key: str, kept: list[Any], told: Told) -> None:
        arm, predicted, unit, shadow, _ = kept
        if not self.judged.first(arm, unit) or (self.paired and shadow is None):
            return
        places: dict[str, int] = {}
        for name, side, answer in self._answers(arm, predicted, shadow):
            if (reading := self._reading(side, answer, told.label)) is not None:
                places[f"{name}/{side}"] = self.contests[name].add(side, *reading)
        if places or self.task == Task.binary:
            self.counted[key] = [arm, predicted, shadow, [*told], places]
            _trim(self.counted, MAX_COUNTED)

    def _correct(self, known: list[Any], told: Told) -> None:
        arm, predicted, shadow, before, places = known
        known[3] = [*told]
        for name, side, answer in self._answers(arm, predicted, shadow) if told.label != before[2] else ():
            new, place_of = self._reading(side, answer, told.label), f"{name}/{side}"
            if place_of in places:
                self.contests[name].correct(places[place_of], side, self._reading(side, answer, before[2]), new)
            elif new is not None:
                places[place_of] = self.contests[name].add(side, *new)

    def _answers(self, arm: str, predicted: Answer, shadow: Answer | None) -> Iterator[tuple[str, str, Answer]]:
        """Contest, side and prediction of each comparison that a decision is part of."""
        for name in self.contests:
            if arm in (CHAMPION, name):
                yield name, CHAMPION if arm == CHAMPION else CHALLENGER, predicted
            if shadow is not None:
                yield name, CHALLENGER, shadow

    def stats(self, record: Mapping[str, Any]) -> None:
        """A replica's counts of one arm in one second."""
        arm = str(record["arm"])
        if self.versions.get(arm) == record["version"] and record["time"] >= self.since:
            self.tallies[arm].stats(record)

    def _reading(self, side: str, predicted: Answer, truth: str) -> Reading | None:
        """What an outcome says of a prediction: nothing when the model has no such label or has no scale yet."""
        if self.task == Task.binary:
            kind = "1" if truth == self.labels[1] else "0"
            return (kind, float(predicted["score"])) if truth in self.labels else None
        loss = self.loss.of(side, predicted, truth)
        return None if loss is None else ("", loss)

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
        key, told = name_of(record.get("tenant"), record["id"]), self.early.of(record)
        predicted = {"score": record["score"], "label": record["label"]}
        self.pending[key] = [arm, predicted, _hash(*unit), None, told and [*told]]
        _trim(self.pending, MAX_PENDING)
        if record.get("key") is not None:
            self.keys.setdefault(key_name(record), []).append(key)
            self.num_keys += 1
            self._forget_keys()
        if told is not None and not self.paired:
            self._tell(key, told)

    def _forget_keys(self) -> None:
        """Let keys go whose decisions are forgotten, now and then."""
        if self.num_keys > 2 * (MAX_PENDING + MAX_COUNTED):
            known = {name: [key for key in keys if key in self.pending or key in self.counted]
                     for name, keys in self.keys.items()}  # fmt: skip
            self.keys = {name: keys for name, keys in known.items() if keys}
            self.num_keys = sum(map(len, self.keys.values()))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"entities", "judged", "tallies", "contests", "loss", "early"}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        return plain | {
            "entities": self.entities.to_text(),
            "judged": self.judged.to_text(),
            "loss": asdict(self.loss),
            "early": self.early.to_json(),
            "tallies": {name: tally.to_json() for name, tally in self.tallies.items()},
            "contests": {name: contest.to_json() for name, contest in self.contests.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Inverse of ``to_json``, of earlier releases too."""
        keys = {name: [keys] if isinstance(keys, str) else keys for name, keys in data["keys"].items()}
        return cls(**{
            **data,
            "keys": keys,
            "pending": {key: [*kept[:4], *(kept[4:] or [None])] for key, kept in data["pending"].items()},
            "early": ByKey(MAX_EARLY, data.get("early")),
            "entities": Seen(data["entities"]),
            "judged": Seen(data["judged"]),
            "loss": Loss(**data["loss"]),
            "tallies": {name: Tally(**tally) for name, tally in data["tallies"].items()},
            "contests": {name: Contest.from_json(told) for name, told in data["contests"].items()},
        })  # fmt: skip


def _hash(*parts: str) -> str:
    return f"{place(*parts):016x}"


def _trim(kept: dict[str, Any], most: int) -> None:
    for oldest in list(islice(kept, max(len(kept) - most, 0))):
        del kept[oldest]
