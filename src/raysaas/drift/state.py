"""What a watch must not forget between two kills, and what it compares with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raysaas.drift.performance import Matured
from raysaas.drift.sketches import DecisionWindow
from raysaas.errors import CorruptBundle
from raysaas.models.profile import Profile
from raysaas.records import Arm, DriftReport, Severity, Task

COUNTERS = ("decisions", "outcomes", "ignored", "reports")


@dataclass(frozen=True, slots=True)
class Reference:
    """What a version is compared with: the profile and test metrics pinned in its bundle."""

    profile: Profile
    task: Task
    labels: tuple[str, ...]
    metrics: Mapping[str, float]

    @classmethod
    def read(cls, arm: Arm) -> "Reference":
        """Read profile and manifest of a bundle, digests checked, without loading its model."""
        folder = Path(arm.uri.removeprefix("file://"))
        data = (folder / "manifest.json").read_bytes()
        profile = (folder / "profile.json").read_bytes()
        manifest = json.loads(data)
        if _sha(data) != arm.digest or _sha(profile) != manifest["files"]["profile.json"]["sha256"]:
            raise CorruptBundle(f"The bundle at {folder} is not version {arm.version} ({arm.digest[:16]}): restore it.")
        return cls(Profile.from_json(json.loads(profile)), Task(manifest["task"]), tuple(manifest["labels"]),
                   manifest["meta"].get("metrics", {}))  # fmt: skip


@dataclass(slots=True)
class Track:
    """One version under watch: its unfinished windows and the number of the next report.

    ``pending`` maps a decision id to its score, label and time, until the outcome comes, and ``named`` the caller's own
    key of decisions to their ids. ``since`` is the release's first window. ``baseline`` is the first measured
    performance, the reference where the bundle names none.
    """

    next_window: int = 1
    since: int = 1
    decisions: DecisionWindow | None = None
    pending: dict[str, tuple[float, str | None, str]] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)
    matured: list[Matured] = field(default_factory=list)
    matured_span: tuple[str, str] | None = None
    baseline: dict[str, float] = field(default_factory=dict)

    def restart(self) -> None:
        """Forget unfinished windows; numbers go on."""
        self.since, self.decisions, self.pending, self.matured = self.next_window, None, {}, []
        self.named, self.matured_span = {}, None

    def remember(self, record: Mapping[str, Any]) -> None:
        """Wait for the outcome of a decision."""
        self.pending[record["id"]] = (float(record["score"]), record.get("label"), record["time"])
        if record.get("key"):
            self.named.setdefault(_name(record), []).append(record["id"])

    def trim(self, most: int) -> None:
        """Wait for no more than ``most`` outcomes, the newest decisions'."""
        for key in list(self.pending)[: max(len(self.pending) - most, 0)]:
            del self.pending[key]
        for name in list(self.named)[: max(len(self.named) - most, 0)]:
            del self.named[name]

    def decided(self, outcome: Mapping[str, Any]) -> list[str]:
        """The decisions here that an outcome is of, by id or by key, and that still wait for one."""
        ids = [str(outcome["decision_id"])] if outcome.get("decision_id") else self.named.pop(_name(outcome), [])
        return [one for one in ids if one in self.pending]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        decisions = self.decisions.to_json() if self.decisions else None
        return {"next_window": self.next_window, "since": self.since, "decisions": decisions, "pending": self.pending,
                "named": self.named, "matured": self.matured, "matured_span": self.matured_span,
                "baseline": self.baseline}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Track":
        """Inverse of ``to_json``."""
        decisions = DecisionWindow.from_json(data["decisions"]) if data["decisions"] else None
        span = data["matured_span"]
        return cls(next_window=data["next_window"], since=data["since"], decisions=decisions,
                   pending={key: (row[0], row[1], (*row, "")[2]) for key, row in data["pending"].items()},
                   named=data.get("named", {}),
                   matured=[Matured(*row) for row in data["matured"]],
                   matured_span=(span[0], span[1]) if span else None, baseline=data["baseline"])  # fmt: skip


@dataclass(slots=True)
class State:
    """All that a watch must not forget. ``outbox`` holds reports not yet known to be in the ledger."""

    champion: int | None = None
    offsets: dict[str, dict[str, int]] = field(default_factory=lambda: {"decisions": {}, "outcomes": {}})
    tracks: dict[int, Track] = field(default_factory=dict)
    outbox: list[DriftReport] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"champion": self.champion, "offsets": self.offsets, "counters": self.counters,
                "tracks": {str(version): track.to_json() for version, track in self.tracks.items()},
                "outbox": [report_to_json(report) for report in self.outbox],
                "submitted": self.submitted}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "State":
        """Inverse of ``to_json``."""
        return cls(champion=data["champion"], offsets=data["offsets"], counters=data["counters"],
                   tracks={int(version): Track.from_json(track) for version, track in data["tracks"].items()},
                   outbox=[_report_from_json(report) for report in data["outbox"]],
                   submitted=data["submitted"])  # fmt: skip


def report_to_json(report: DriftReport) -> dict[str, Any]:
    """A report as plain JSON types, as ``GET /drift`` answers it."""
    times = {"started_at": report.started_at.isoformat(), "ended_at": report.ended_at.isoformat()}
    return {**asdict(report), **times, "severity": str(report.severity)}


def _report_from_json(data: Mapping[str, Any]) -> DriftReport:
    times = {key: datetime.fromisoformat(data[key]) for key in ("started_at", "ended_at")}
    tuples = {key: tuple(data[key]) for key in ("decisions", "cause")}
    return DriftReport(**{**data, **times, **tuples, "severity": Severity(data["severity"])})


def _name(record: Mapping[str, Any]) -> str:
    return json.dumps([record.get("tenant"), record.get("key")])


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
