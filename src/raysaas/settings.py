"""The typed shape of ``conf/``: one dataclass per Hydra group, checked on construction.

Each group is a file in ``conf/<group>/``; defaults live there, not here, unless a key is rarely set. Values are checked
before any engine is imported, and a message names the key, the value and what is allowed. Units are in the names.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from raysaas.errors import ConfigError
from raysaas.records import Task


class ColumnType(StrEnum):
    """What a source column holds. ``text`` and ``time`` columns never become features by themselves."""

    number = "number"
    integer = "integer"
    boolean = "boolean"
    category = "category"
    time = "time"
    text = "text"


class Format(StrEnum):
    """How a source file is encoded; ``auto`` goes by its suffix, then by its first bytes."""

    auto = "auto"
    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"


class ExampleKind(StrEnum):
    """``rows``: each row of a source is an example. ``cuts``: each entity at each cut date is one."""

    rows = "rows"
    cuts = "cuts"


class SplitBy(StrEnum):
    """How rows are held back; ``auto`` is by time where there are several times, else by hash of the entity."""

    auto = "auto"
    time = "time"
    random = "random"


class ExtraFields(StrEnum):
    """What happens to request fields that the model does not know."""

    refuse = "refuse"
    ignore = "ignore"


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise ConfigError(f"{key}={value!r} is not allowed: expected {expected}.")


@dataclass(kw_only=True, slots=True)
class Column:
    """One column of a source. ``column`` is its name in the file when that differs from the key."""

    type: ColumnType = ColumnType.number
    column: str | None = None
    required: bool = False
    min: float | None = None
    max: float | None = None
    values: list[str] | None = None
    feature: bool = True


@dataclass(kw_only=True, slots=True)
class Source:
    """Files that hold one kind of row, and the contract those rows must keep.

    ``path`` is a local path, a glob or a URI; relative paths are taken from ``data_dir``. ``entity``, ``tenant``,
    ``time`` and ``known_at`` name columns (keys of ``columns`` or of ``derive``); absent ones get: a row id, ``default``,
    the ingestion time, the event time. ``derive`` adds columns by DuckDB expressions over the file's own columns and
    ``row_number``, which counts the rows of a file from 1.
    """

    path: str = ""
    format: Format = Format.auto
    entity: str | None = None
    tenant: str | None = None
    time: str | None = None
    known_at: str | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    derive: dict[str, str] = field(default_factory=dict)
    unique: list[str] = field(default_factory=list)
    time_order: bool = False


@dataclass(kw_only=True, slots=True)
class Split:
    """Which examples are held back. ``test`` and ``valid`` are shares; ``test_from`` is an ISO date."""

    by: SplitBy = SplitBy.auto
    test: float = 0.2
    valid: float = 0.15
    test_from: str | None = None

    def __post_init__(self) -> None:
        _require(0 < self.test < 1, "use_case.examples.split.test", self.test, "a share between 0 and 1")
        _require(0 < self.valid < 1, "use_case.examples.split.valid", self.valid, "a share between 0 and 1")


@dataclass(kw_only=True, slots=True)
class Examples:
    """What one training example is, and its label.

    ``rows``: ``label`` is a column of ``source``, taken ``lead`` rows later of the same entity; ``lags`` adds the values
    of columns that many rows earlier. ``cuts``: each entity seen in ``source`` by a cut date is an example, its label is
    whether ``label_source`` has a row of it within ``horizon_days`` after the cut; with ``until_label`` an entity stops
    being an example once it has such a row. ``cuts`` lists ISO dates, or ``every_days`` makes them.
    """

    kind: ExampleKind = ExampleKind.rows
    source: str = ""
    label: str | None = None
    positive: str | None = None
    lead: int = 0
    lags: dict[str, list[int]] = field(default_factory=dict)
    cuts: list[str] = field(default_factory=list)
    every_days: int | None = None
    horizon_days: int = 30
    maturity_days: int = 0
    label_source: str | None = None
    until_label: bool = False
    exclude: list[str] = field(default_factory=list)
    split: Split = field(default_factory=Split)


@dataclass(kw_only=True, slots=True)
class View:
    """One Feast feature view: columns of a source as they are, or window aggregates over its rows.

    ``aggregates`` are ``count``, ``since_last``, ``since_first`` (days) or ``FUNCTION:COLUMN`` with FUNCTION one of
    sum, mean, min, max, last, distinct; each is computed over every window of ``windows_days`` before the cut.
    """

    source: str = ""
    columns: list[str] = field(default_factory=list)
    windows_days: list[int] = field(default_factory=list)
    aggregates: list[str] = field(default_factory=list)
    ttl_days: int | None = None


@dataclass(kw_only=True, slots=True)
class Change:
    """A change planted into replayed traffic by the demo: renamed categories, scaled and shifted numbers."""

    rename: dict[str, dict[str, str]] = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)
    shift: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True, slots=True)
class Simulation:
    """The simulated SaaS: size, span and the planted change. ``start`` and ``change_at`` are ISO dates."""

    tenants: int = 4
    accounts: int = 2000
    start: str = "2025-01-01"
    days: int = 360
    change_at: str = "2025-10-01"
    label_delay_days: int = 7


@dataclass(kw_only=True, slots=True)
class UseCase:
    """One prediction product: its data, its label, its features."""

    name: str = ""
    title: str = ""
    task: Task = Task.binary
    sources: dict[str, Source] = field(default_factory=dict)
    examples: Examples = field(default_factory=Examples)
    views: dict[str, View] = field(default_factory=dict)
    allow_leaks: list[str] = field(default_factory=list)
    change: Change = field(default_factory=Change)
    simulate: Simulation | None = None

    def __post_init__(self) -> None:
        _require(
            self.name.isidentifier() and self.name == self.name.lower(),
            "use_case.name",
            self.name,
            "lower-case letters, digits and underscores, not starting with a digit",
        )
        known = ", ".join(self.sources) or "none are defined"
        _require(
            self.examples.source in self.sources, "use_case.examples.source", self.examples.source, f"one of: {known}"
        )
        for name, view in self.views.items():
            _require(view.source in self.sources, f"use_case.views.{name}.source", view.source, f"one of: {known}")
        if self.examples.kind is ExampleKind.cuts:
            label = self.examples.label_source
            _require(label in self.sources, "use_case.examples.label_source", label, f"one of: {known}")
        else:
            _require(
                bool(self.examples.label), "use_case.examples.label", self.examples.label, "a column of the source"
            )


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


@dataclass(kw_only=True, slots=True)
class Storage:
    """Where records live. Null means the embedded default under ``home``."""

    home: str = "var"
    catalog_url: str | None = None
    warehouse: str | None = None
    ledger_url: str | None = None
    mlflow_url: str | None = None
    artifacts: str | None = None
    journal: str | None = None
    online_path: str | None = None

    def __post_init__(self) -> None:
        home = Path(self.home).expanduser().resolve()
        self.home = str(home)
        self.catalog_url = self.catalog_url or f"sqlite:///{home}/catalog.db"
        self.warehouse = self.warehouse or f"file://{home}/warehouse"
        self.ledger_url = self.ledger_url or f"sqlite:///{home}/ledger.db"
        self.mlflow_url = self.mlflow_url or f"sqlite:///{home}/mlflow.db"
        self.artifacts = self.artifacts or f"{home}/artifacts"
        self.journal = self.journal or f"{home}/journal"
        self.online_path = self.online_path or f"{home}/online.db"

    def embedded(self) -> list[str]:
        """Keys that hold SQLite, which only one machine can share."""
        urls = {"catalog_url": self.catalog_url, "ledger_url": self.ledger_url, "mlflow_url": self.mlflow_url}
        return [f"storage.{key}" for key, url in urls.items() if url and url.startswith("sqlite")]


@dataclass(kw_only=True, slots=True)
class Ingest:
    """How sources are read. ``error_budget`` is the share of rows that may be refused before nothing is committed."""

    error_budget: float = 0.05
    num_blocks: int = 4
    future_tolerance_s: int = 86_400

    def __post_init__(self) -> None:
        _require(0 <= self.error_budget < 1, "ingest.error_budget", self.error_budget, "a share from 0 up to 1")
        _require(self.num_blocks > 0, "ingest.num_blocks", self.num_blocks, "a positive number")


@dataclass(kw_only=True, slots=True)
class Features:
    """How features are built. ``partitions`` is the fan-out of joins by hash of the entity key."""

    partitions: int = 2
    rows_per_partition: int = 250_000
    feedback: bool = True


@dataclass(kw_only=True, slots=True)
class Model:
    """Which families are fitted, and their shapes. ``families`` holds ``network`` and/or ``trees``."""

    families: list[str] = field(default_factory=lambda: ["network", "trees"])
    hidden: list[int] = field(default_factory=lambda: [64, 64])
    dropout: float = 0.1
    num_trees: int = 600
    num_leaves: int = 31
    min_leaf_rows: int = 20
    tree_learning_rate: float = 0.05

    def __post_init__(self) -> None:
        allowed = {"network", "trees"}
        _require(
            bool(self.families) and set(self.families) <= allowed,
            "model.families",
            self.families,
            "a list of network, trees",
        )


@dataclass(kw_only=True, slots=True)
class Train:
    """One Ray Train run. ``as_of`` (ISO time) rebuilds the training set as it was known then."""

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
            _require(getattr(self, key) > 0, f"train.{key}", getattr(self, key), "a positive number")


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
    """One Serve application per use case, behind HAProxy."""

    port: int = 8000
    min_replicas: int = 1
    max_replicas: int = 2
    num_cpus: float = 0.2
    target_ongoing_requests: int = 32
    max_ongoing_requests: int = 256
    max_body_bytes: int = 4_000_000
    max_instances: int = 1000
    quota_rps: float = 2000.0
    quota_burst: float = 4000.0
    extra_fields: ExtraFields = ExtraFields.refuse
    segment_bytes: int = 8_000_000
    segment_age_s: float = 5.0


@dataclass(kw_only=True, slots=True)
class Drift:
    """When a window of decisions counts as drifted, and when that orders a retraining."""

    window: int = 400
    psi_warning: float = 0.15
    psi_drift: float = 0.3
    consecutive: int = 2
    performance_drop: float = 0.08
    min_outcomes: int = 200
    cooldown_s: int = 60
    poll_s: float = 1.0
    retrain: bool = True


@dataclass(kw_only=True, slots=True)
class ReleasePolicy:
    """When a version may answer. ``min_gain`` is over the champion, in the task's main metric, on held-back rows."""

    min_gain: float = 0.0
    baseline_tolerance: float = 0.002


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
