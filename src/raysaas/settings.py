"""The typed shape of ``conf/``: one dataclass per Hydra group, checked on construction.

Each group is a file in ``conf/<group>/``; defaults live there, not here, unless a key is rarely set. Values are checked
before any engine is imported, and a message names the key, the value and what is allowed. Units are in the names.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from raysaas.errors import ConfigError
from raysaas.use_case import UseCase, require


class ExtraFields(StrEnum):
    """What happens to request fields that the model does not know."""

    refuse = "refuse"
    ignore = "ignore"


class OnContract(StrEnum):
    """What happens to request rows that break the contract of their source's columns."""

    refuse = "refuse"
    ignore = "ignore"


@dataclass(kw_only=True, slots=True)
class Cluster:
    """The Ray cluster that jobs connect to. ``address`` null is the local head that ``raysaas up`` starts."""

    name: str = "raysaas"
    address: str | None = None
    bind: str = "127.0.0.1"
    port: int = 6379
    dashboard_port: int = 8265
    num_cpus: int | None = None
    object_store_mb: int = 512
    use_gpu: bool = False
    multi_node: bool = False


_ONLINE = ("sqlite", "redis", "rediss")
_ONLINE_TEXT = ", ".join(f"{scheme}://" for scheme in _ONLINE)


@dataclass(kw_only=True, slots=True)
class Storage:
    """Where records live. Null means the embedded default under ``home``.

    ``online_url`` is SQLite or Redis (``redis://``, with TLS ``rediss://``); the other URLs are SQLAlchemy's.
    """

    home: str = "var"
    catalog_url: str | None = None
    warehouse: str | None = None
    ledger_url: str | None = None
    mlflow_url: str | None = None
    artifacts: str | None = None
    journal: str | None = None
    online_url: str | None = None

    def __post_init__(self) -> None:
        home = Path(self.home).expanduser().resolve()
        self.home = str(home)
        self.catalog_url = self.catalog_url or f"sqlite:///{home}/catalog.db"
        self.warehouse = self.warehouse or f"file://{home}/warehouse"
        self.ledger_url = self.ledger_url or f"sqlite:///{home}/ledger.db"
        self.mlflow_url = self.mlflow_url or f"sqlite:///{home}/mlflow.db"
        self.artifacts = self.artifacts or f"{home}/artifacts"
        self.journal = self.journal or f"{home}/journal"
        online = self.online_url or f"{home}/online.db"
        self.online_url = online if "://" in online else f"sqlite:///{online}"
        scheme = self.online_url.partition("://")[0]
        # The scheme alone: a URL may hold a password.
        require(scheme in _ONLINE, "storage.online_url", f"{scheme}://...", f"a URL that starts with: {_ONLINE_TEXT}")

    def embedded(self) -> list[str]:
        """Keys that hold SQLite, which only one machine can share."""
        names = ("catalog_url", "ledger_url", "mlflow_url", "online_url")
        urls = {name: getattr(self, name) for name in names}
        return [f"storage.{key}" for key, url in urls.items() if url and url.startswith("sqlite")]


@dataclass(kw_only=True, slots=True)
class Ingest:
    """How sources are read. ``error_budget`` is the share of rows that may be refused before nothing is committed.

    With ``every_s`` the job stays and looks for new rows that often, until it is stopped. Compaction expires versions
    of a source's tables that nothing names once they are older than ``keep_hours``; null keeps all for ever.
    """

    error_budget: float = 0.05
    num_blocks: int = 4
    future_tolerance_s: int = 86_400
    every_s: float | None = None
    keep_hours: float | None = 6.0

    def __post_init__(self) -> None:
        require(0 <= self.error_budget < 1, "ingest.error_budget", self.error_budget, "a share from 0 up to 1")
        require(self.num_blocks > 0, "ingest.num_blocks", self.num_blocks, "a positive number")
        require(self.every_s is None or self.every_s > 0, "ingest.every_s", self.every_s, "seconds above 0, or null")
        require(self.keep_hours is None or self.keep_hours >= 0, "ingest.keep_hours", self.keep_hours, "hours, or null")


@dataclass(kw_only=True, slots=True)
class Features:
    """How features are built. ``partitions`` is the fan-out of joins by hash of the entity key.

    With ``on_arrival`` a job that ingests brings the online rows of the entities it saw up to date at once.
    """

    partitions: int = 2
    rows_per_partition: int = 2_000_000
    on_arrival: bool = False


@dataclass(kw_only=True, slots=True)
class Model:
    """Which of ``linear`` (the baseline), ``network`` and ``trees`` are fitted, in this order, and their shapes."""

    families: list[str] = field(default_factory=lambda: ["linear", "network", "trees"])
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    dropout: float = 0.1
    num_trees: int = 1000
    num_leaves: int = 31
    min_leaf_rows: int = 20
    tree_learning_rate: float = 0.05

    def __post_init__(self) -> None:
        allowed = {"linear", "network", "trees"}
        require(
            bool(self.families) and set(self.families) <= allowed,
            "model.families",
            self.families,
            "a list of linear, network, trees",
        )


@dataclass(kw_only=True, slots=True)
class Train:
    """One Ray Train run. ``as_of`` builds an earlier training set again: that of a model version (``v3``), or what was
    known at an ISO time.
    """

    num_workers: int = 2
    cpus_per_worker: float = 0.5
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    patience: int = 5
    max_failures: int = 2
    max_rows_in_memory: int = 2_000_000
    as_of: str | None = None

    def __post_init__(self) -> None:
        for key in ("num_workers", "epochs", "batch_size"):
            require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "a positive number")


@dataclass(kw_only=True, slots=True)
class Tune:
    """One Ray Tune sweep: Optuna proposes, ASHA stops the hopeless."""

    num_samples: int = 4
    max_concurrent: int = 2
    max_epochs: int = 8
    grace_epochs: int = 2
    seed: int = 0


@dataclass(kw_only=True, slots=True)
class Federated:
    """One Flower run. ``partition_by`` is ``tenant`` or ``entity``: which rows a site owns."""

    rounds: int = 3
    num_nodes: int = 2
    local_epochs: int = 2
    learning_rate: float = 2e-3
    partition_by: str = "tenant"
    max_weight_share: float = 0.8
    timeout_s: int = 300


@dataclass(kw_only=True, slots=True)
class Serve:
    """One Serve application per use case, behind HAProxy. With ``num_gpus`` a replica runs networks on its GPU."""

    port: int = 8000
    min_replicas: int = 1
    max_replicas: int = 2
    num_cpus: float = 0.2
    num_gpus: float = 0.0
    target_ongoing_requests: int = 32
    target_wait_ms: float = 50.0
    scale_down_s: float = 60.0
    max_ongoing_requests: int = 256
    max_body_bytes: int = 4_000_000
    max_instances: int = 1000
    quota_rps: float = 2000.0
    quota_burst: float = 4000.0
    tenant_models: int = 64
    extra_fields: ExtraFields = ExtraFields.refuse
    contract: OnContract = OnContract.refuse
    segment_bytes: int = 8_000_000
    segment_age_s: float = 5.0
    journal_deadline_s: float = 0.5

    def __post_init__(self) -> None:
        for key in (
            "target_ongoing_requests",
            "target_wait_ms",
            "max_ongoing_requests",
            "tenant_models",
            "journal_deadline_s",
        ):
            require(getattr(self, key) > 0, f"serve.{key}", getattr(self, key), "a positive number")
        for key in ("min_replicas", "max_replicas", "scale_down_s", "quota_rps", "quota_burst"):
            require(getattr(self, key) >= 0, f"serve.{key}", getattr(self, key), "0 or more")
        require(0 <= self.num_gpus <= 1, "serve.num_gpus", self.num_gpus, "0, or a part of a GPU up to 1")


@dataclass(kw_only=True, slots=True)
class Drift:
    """When a window of decisions counts as drifted, and when that orders a retraining.

    ``min_requests`` is how many requests, at least, a run of drifted windows must come from before it orders one.
    """

    window: int = 400
    psi_warning: float = 0.15
    psi_drift: float = 0.3
    consecutive: int = 2
    min_requests: int = 10
    performance_drop: float = 0.08
    min_outcomes: int = 200
    cooldown_s: int = 60
    poll_s: float = 1.0
    retrain: bool = True

    def __post_init__(self) -> None:
        for key in ("window", "consecutive", "min_requests"):
            require(getattr(self, key) > 0, f"drift.{key}", getattr(self, key), "a positive number")


class Strategy(StrEnum):
    """How a version that passed the gate comes in front of users."""

    blue_green = "blue_green"
    canary = "canary"
    shadow = "shadow"


class Unproven(StrEnum):
    """What happens to a challenger that proved neither better nor worse."""

    roll_back = "roll_back"
    promote = "promote"


@dataclass(kw_only=True, slots=True)
class ReleasePolicy:
    """When a version may answer. ``min_gain`` is over the champion, in the task's main metric, on held-back rows.

    A canary's share goes through ``stages``, each after ``stage_decisions`` of the challenger; 1.0 is the promotion and
    needs proof, at the chance ``alpha`` of a false one, within ``max_outcomes`` of the challenger. Limits of the
    challenger against the champion: share of errors, ratio of p99, PSI of the scores, share of missing values. A
    promotion that outcomes of the comparison prove wrong within ``undo_days`` is undone.
    """

    min_gain: float = 0.0
    baseline_tolerance: float = 0.002
    strategy: Strategy = Strategy.blue_green
    stages: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.25, 1.0])
    stage_decisions: int = 200
    alpha: float = 0.05
    max_outcomes: int = 20_000
    unproven: Unproven = Unproven.roll_back
    undo_days: float = 7.0
    max_errors: float = 0.01
    max_latency_ratio: float = 3.0
    max_score_psi: float = 0.5
    max_missing: float = 0.2
    poll_s: float = 1.0

    def __post_init__(self) -> None:
        self.strategy, self.unproven = Strategy(self.strategy), Unproven(self.unproven)  # from JSON they are plain text
        rising = all(a < b for a, b in pairwise([0.0, *self.stages]))
        require(rising and self.stages[-1:] == [1.0], "release.stages", self.stages, "rising shares over 0 up to 1.0")
        for key in ("stage_decisions", "max_outcomes", "poll_s", "max_latency_ratio"):
            require(getattr(self, key) > 0, f"release.{key}", getattr(self, key), "a positive number")
        require(0 < self.alpha < 1, "release.alpha", self.alpha, "a chance between 0 and 1")


@dataclass(kw_only=True, slots=True)
class Settings:
    """Everything a job needs to know, composed from ``conf/`` and the command line."""

    use_case: UseCase
    cluster: Cluster = field(default_factory=Cluster)
    storage: Storage = field(default_factory=Storage)
    ingest: Ingest = field(default_factory=Ingest)
    features: Features = field(default_factory=Features)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    tune: Tune = field(default_factory=Tune)
    federated: Federated = field(default_factory=Federated)
    serve: Serve = field(default_factory=Serve)
    drift: Drift = field(default_factory=Drift)
    release: ReleasePolicy = field(default_factory=ReleasePolicy)
    data_dir: str | None = None
    home: str = "var"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cluster.multi_node and self.storage.embedded():
            keys = ", ".join(self.storage.embedded())
            raise ConfigError(
                f"cluster.multi_node=true cannot share SQLite: set {keys} to a URL that every node reaches."
            )
        if self.data_dir and "://" not in self.data_dir:
            self.data_dir = str(Path(self.data_dir).expanduser().resolve())
