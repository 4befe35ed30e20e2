"""The typed shape of ``conf/use_case/``: one prediction product, its sources and their contract, examples, features."""

from dataclasses import dataclass, field
from enum import StrEnum

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


def require(ok: bool, key: str, value: object, expected: str) -> None:
    """Raise ConfigError naming key, value and what is allowed, unless ``ok``."""
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
    ``time`` and ``known_at`` name columns (keys of ``columns`` or of ``derive``); absent ones get: a row id,
    ``default``, the ingestion time, the event time. ``derive`` adds columns by DuckDB expressions over the file's own
    columns and ``row_number``, which counts the rows of a file from 1.
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
        require(0 < self.test < 1, "use_case.examples.split.test", self.test, "a share between 0 and 1")
        require(0 < self.valid < 1, "use_case.examples.split.valid", self.valid, "a share between 0 and 1")


@dataclass(kw_only=True, slots=True)
class Examples:
    """What one training example is, and its label.

    ``rows``: ``label`` is a column of ``source``, taken ``lead`` rows later of the same entity; ``lags`` adds the
    values of columns that many rows earlier. ``cuts``: each entity seen in ``source`` by a cut date is an example, its
    label is whether ``label_source`` has a row of it within ``horizon_days`` after the cut; with ``until_label`` an
    entity stops being an example once it has such a row. ``cuts`` lists ISO dates, or ``every_days`` makes them.
    ``keep_days`` leaves out examples older than that many days before the newest one; with ``feedback`` decisions
    whose outcome is known become examples too.
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
    keep_days: int | None = None
    feedback: bool = True
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
    """A change planted into replayed traffic by the demo: renamed categories, scaled and shifted numbers.

    ``what`` says it in words.
    """

    what: str = ""
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
        require(
            self.name.isidentifier() and self.name == self.name.lower(),
            "use_case.name",
            self.name,
            "lower-case letters, digits and underscores, not starting with a digit",
        )
        known = ", ".join(self.sources) or "none are defined"
        require(
            self.examples.source in self.sources, "use_case.examples.source", self.examples.source, f"one of: {known}"
        )
        for name, view in self.views.items():
            require(view.source in self.sources, f"use_case.views.{name}.source", view.source, f"one of: {known}")
        if self.examples.kind is ExampleKind.cuts:
            label = self.examples.label_source
            require(label in self.sources, "use_case.examples.label_source", label, f"one of: {known}")
        else:
            require(bool(self.examples.label), "use_case.examples.label", self.examples.label, "a column of the source")
