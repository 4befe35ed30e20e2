"""What a watch must not forget between two kills, and what it compares with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from raysaas.drift.track import Track
from raysaas.errors import CorruptBundle
from raysaas.models.profile import Profile
from raysaas.records import Arm, DriftReport, Severity, Task
from raysaas.stores.outcomes import ByKey

COUNTERS = ("decisions", "outcomes", "corrected", "ignored", "reports")
MAX_EARLY = 20_000  # outcomes by the caller's own key that are kept for decisions still to come


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
class State:
    """All that a watch must not forget. ``outbox`` holds reports not yet known to be in the ledger."""

    champion: int | None = None
    offsets: dict[str, dict[str, int]] = field(default_factory=lambda: {"decisions": {}, "outcomes": {}})
    tracks: dict[int, Track] = field(default_factory=dict)
    outbox: list[DriftReport] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    early: ByKey = field(default_factory=lambda: ByKey(MAX_EARLY))
    counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"champion": self.champion, "offsets": self.offsets, "counters": self.counters,
                "tracks": {str(version): track.to_json() for version, track in self.tracks.items()},
                "outbox": [report_to_json(report) for report in self.outbox],
                "early": self.early.to_json(), "submitted": self.submitted}  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "State":
        """Inverse of ``to_json``."""
        return cls(champion=data["champion"], offsets=data["offsets"],
                   counters=dict.fromkeys(COUNTERS, 0) | data["counters"],
                   early=ByKey(MAX_EARLY, data.get("early")),
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


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
