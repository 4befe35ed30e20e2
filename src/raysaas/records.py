"""The nouns of the platform, one record per step of the path, in path order.

event -> dataset -> features -> model -> release -> decision -> outcome -> drift -> order.
A record is immutable, names its inputs by id, and is what stages exchange; where it is kept is said in its docstring.
All times are timezone-aware UTC.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Task(StrEnum):
    """What a model predicts."""

    binary = "binary"
    multiclass = "multiclass"
    regression = "regression"


class Family(StrEnum):
    """How a model was fitted."""

    linear = "linear"
    network = "network"
    trees = "trees"
    federated = "federated"


class Severity(StrEnum):
    """Verdict of a drift window."""

    silent = "silent"
    warning = "warning"
    drift = "drift"


class OrderState(StrEnum):
    """Life of a retrain order; open and running count as open."""

    open = "open"
    running = "running"
    done = "done"
    failed = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened in the SaaS product. Kept in Iceberg ``raw.<use_case>_<source>``."""

    source: str
    tenant: str
    entity: str
    event_time: datetime
    known_at: datetime
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One version of a dataset: an Iceberg snapshot and what its contract said of the rows that made it."""

    table: str
    snapshot_id: int
    num_rows: int
    num_read: int
    num_accepted: int
    num_quarantined: int
    schema_hash: str
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSet:
    """Point-in-time correct rows to learn from. Kept in Iceberg ``training.<use_case>``.

    ``snapshots`` maps each table that was read, sources and logs, to the snapshot id; ``definitions`` holds a digest of
    each part of the use case's conf that shaped the rows; ``content_hash`` is equal for equal rows.
    """

    use_case: str
    table: str
    snapshot_id: int
    snapshots: Mapping[str, int]
    feature_service: str
    feature_service_hash: str
    as_of: datetime
    known_at: datetime
    num_rows: int
    content_hash: str
    definitions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One fitted model. Its identity is ``digest``, the SHA-256 of the bundle's manifest. Kept in MLflow.

    ``features`` is the hash of the feature service that it was trained on.
    """

    use_case: str
    version: int
    digest: str
    uri: str
    family: Family
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    training_snapshot: int
    released: bool = False
    reason: str = ""
    features: str = ""
    at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One model version that a release may answer with. ``features`` is the hash of the feature service it reads."""

    version: int
    uri: str
    digest: str
    features: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A version under comparison with the champion, and its share (0 to 1) of the traffic.

    ``name`` is "challenger" in a canary and whatever the experimenter chose in an A/B test.
    """

    name: str
    arm: Arm
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Which versions answer. ``sequence`` grows by one with each change; history is kept in the SQL ledger.

    ``shadow`` sees all requests and answers none. ``tenants`` maps a tenant to a version of its own. While ``frozen``
    nothing changes. ``experiment`` is the salt of the split: it stays while only shares change, so arms stay sticky.
    """

    use_case: str
    sequence: int
    champion: Arm
    variants: tuple[Variant, ...] = ()
    shadow: Arm | None = None
    tenants: Mapping[str, Arm] = field(default_factory=dict)
    frozen: bool = False
    experiment: str = ""
    actor: str
    reason: str
    at: datetime

    def arms(self) -> list[Arm]:
        """Every version that it names: champion, variants, shadow, then those of tenants."""
        watching = [self.shadow] if self.shadow else []
        return [self.champion, *(variant.arm for variant in self.variants), *watching, *self.tenants.values()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One answered prediction. Journaled before the response leaves, then Iceberg ``log.decisions``.

    ``score`` is the probability of the positive label (binary), of the chosen label (multi-class) or the value itself.
    """

    id: str
    use_case: str
    tenant: str
    entity: str | None
    inputs: Mapping[str, Any]
    version: int
    arm: str
    score: float
    label: str | None
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What really happened after a decision. Journaled, then Iceberg ``log.outcomes``."""

    decision_id: str
    use_case: str
    tenant: str
    label: str
    observed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """One window of decisions compared with the reference profile of the champion. Kept in the SQL ledger.

    ``features`` maps each feature to its PSI against the pinned reference, sampling noise taken off, 0 at least;
    ``cause`` names the features behind the verdict, strongest first; ``decisions`` are the first and last decision id
    of the window, ``num_requests`` the distinct moments at which they were made: requests answered together count once.
    """

    use_case: str
    version: int
    window: int
    num_decisions: int
    num_requests: int = 0
    started_at: datetime
    ended_at: datetime
    decisions: tuple[str, str]
    features: Mapping[str, float]
    prediction: float
    performance: Mapping[str, float] = field(default_factory=dict)
    severity: Severity
    cause: tuple[str, ...] = ()
    html: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainOrder:
    """A wish to retrain, with its evidence. At most one open per use case. Kept in the SQL ledger."""

    id: int
    use_case: str
    reason: str
    evidence: Mapping[str, Any]
    state: OrderState
    opened_at: datetime
    closed_at: datetime | None = None
    result: str = ""


def plain(record: Any) -> dict[str, Any]:
    """A record as JSON-ready values: times and paths become text."""
    return dict(json.loads(json.dumps(asdict(record), default=str)))


def restored(body: Mapping[str, Any]) -> TrainingSet:
    """The training set that :func:`plain` made ``body`` of."""
    times = {key: datetime.fromisoformat(body[key]) for key in ("as_of", "known_at")}
    return TrainingSet(**{**body, **times, "warnings": tuple(body["warnings"])})
