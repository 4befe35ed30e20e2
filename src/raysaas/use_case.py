"""The typed shape of ``conf/use_case/``: one prediction product, its sources and their contract, examples, features."""

from dataclasses import dataclass, field, fields
from datetime import timedelta
from enum import StrEnum

from raysaas.errors import ConfigError
from raysaas.records import Task
from raysaas.view import View as View
from raysaas.view import near


class ColumnType(StrEnum):
    """What a source column holds. ``text`` and ``time`` columns never become features by themselves."""

    number = "number"
    integer = "integer"
    boolean = "boolean"
    category = "category"
    time = "time"
    text = "text"


_TEXT = (ColumnType.category, ColumnType.text)


class Format(StrEnum):
    """How a source file is encoded; ``auto`` goes by its suffix, then by its first bytes."""

    auto = "auto"
    csv = "csv"
    parquet = "parquet"
    jsonl = "jsonl"


class OnBroken(StrEnum):
    """What a broken rule does: ``refuse_row`` sends the row to quarantine, ``refuse_batch`` commits nothing."""

    refuse_row = "refuse_row"
    refuse_batch = "refuse_batch"
    warn = "warn"


class Keep(StrEnum):
    """Which of several equal rows count; ``latest`` goes by a column."""

    all = "all"
    first = "first"
    last = "last"
    latest = "latest"


class Encoding(StrEnum):
    """How a category becomes numbers; all are fitted on the train part only."""

    onehot = "onehot"
    ordinal = "ordinal"
    frequency = "frequency"
    target = "target"


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
    """One column of a source. ``column`` is its name in the file when that differs from the key.

    ``pattern`` is a regular expression (RE2) that the whole text must match; ``max_null_rate`` bounds the share of
    nulls of a batch.
    """

    type: ColumnType = ColumnType.number
    column: str | None = None
    required: bool = False
    min: float | None = None
    max: float | None = None
    values: list[str] | None = None
    pattern: str | None = None
    max_null_rate: float | None = None
    feature: bool = True

    def __post_init__(self) -> None:
        text, low, high, rate = self.type in _TEXT, self.min, self.max, self.max_null_rate
        where = "use_case.sources.<source>.columns.<column>"
        require(self.pattern is None or text, f"{where}.pattern", self.pattern, "one on a category or text only")
        require(rate is None or 0 <= rate <= 1, f"{where}.max_null_rate", rate, "a share from 0 to 1")
        require(low is None or high is None or low <= high, f"{where}.min", low, f"at most max={high}")


@dataclass(kw_only=True, slots=True)
class Duplicates:
    """Which rows count twice. ``exact``: rows equal in every column, ``all`` or ``first``. ``key``: rows equal in the
    source's ``unique`` columns; ``latest`` takes the row with the greatest value of column ``by``.

    ``first`` drops later exact copies (they are counted) and refuses rows whose key came before. Copies are looked for
    within the batch and, where such keys are refused, among the committed rows with the same key. With ``last`` and
    ``latest`` every version stays in the table, and whoever reads it as of a time gets the one that counted then.
    """

    exact: Keep = Keep.all
    key: Keep = Keep.first
    by: str | None = None

    def __post_init__(self) -> None:
        require(
            self.exact in (Keep.all, Keep.first),
            "use_case.sources.<source>.duplicates.exact",
            str(self.exact),
            "all or first",
        )
        needs = self.key is Keep.latest
        require(
            bool(self.by) == needs,
            "use_case.sources.<source>.duplicates.by",
            self.by,
            "a column with key: latest, nothing with the others",
        )


@dataclass(kw_only=True, slots=True)
class Bounds:
    """What a whole batch must keep, the ratios and the increase against the last accepted batch of the source."""

    min_rows: int | None = None
    max_rows: int | None = None
    min_row_ratio: float | None = None
    max_row_ratio: float | None = None
    max_null_increase: float | None = None

    def __post_init__(self) -> None:
        for key in (one.name for one in fields(self)):
            value = getattr(self, key)
            require(value is None or value >= 0, f"use_case.sources.<source>.bounds.{key}", value, "a number from 0 up")
        for low, high in (("min_rows", "max_rows"), ("min_row_ratio", "max_row_ratio")):
            least, most = getattr(self, low), getattr(self, high)
            require(
                least is None or most is None or least <= most,
                f"use_case.sources.<source>.bounds.{low}",
                least,
                f"at most {high}={most}",
            )


@dataclass(kw_only=True, slots=True)
class Sql:
    """A table or a query in a database. ``url`` is SQLAlchemy's; ``watermark`` a column that only grows: each run reads
    the rows that are new since the last one, and again those up to ``lag`` (seconds for times, else the column's unit)
    behind the newest, where late commits may still come; none is taken twice. Without it every run reads all, and takes
    a changed result as new rows.
    """

    url: str = field(default="", repr=False)  # holds a password
    table: str | None = None
    query: str | None = None
    watermark: str | None = None
    lag: float = 0.0
    batch_rows: int = 100_000

    def __post_init__(self) -> None:
        key = "use_case.sources.<source>.sql"
        require(bool(self.url), f"{key}.url", self.url, "a SQLAlchemy URL such as postgresql://user@host:5432/database")
        given = {name: value for name in ("table", "query") if (value := getattr(self, name))}
        require(len(given) == 1, key, given, "either table or query")
        require(self.batch_rows > 0, f"{key}.batch_rows", self.batch_rows, "a positive number")
        require(self.lag >= 0, f"{key}.lag", self.lag, "0 or more")
        require(not self.lag or bool(self.watermark), f"{key}.lag", self.lag, "a watermark that it is behind")


@dataclass(kw_only=True, slots=True)
class Source:
    """Where one kind of row comes from, and the contract those rows must keep.

    ``path`` is a local path, a glob or a URI; relative paths are taken from ``data_dir``. ``sql`` reads a database
    instead; with ``events`` rows also come over HTTP, ``POST /{use_case}/events/{source}``. See docs/SOURCES.md.
    ``entity``, ``tenant``, ``time`` and ``known_at`` name columns (keys of ``columns`` or of ``derive``); absent ones
    get: a row id, ``default``, the ingestion time, the event time. ``derive`` adds columns by DuckDB expressions over
    the file's own columns and ``row_number``, which counts the rows of a file from 1. ``unique`` holds within a tenant.

    ``rules`` are DuckDB conditions over the row's columns that must not be false; ``references`` maps a column to
    ``SOURCE.COLUMN`` whose committed values it must be among; ``max_age_hours`` is how old the newest event of a batch
    may be. ``on_broken`` says what a rule does, by ``RULE``, ``COLUMN.RULE`` or name in ``rules``: rules that look at
    one row refuse the row by default, those that look at the batch (freshness, bounds, null rates) refuse the batch.
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
    duplicates: Duplicates = field(default_factory=Duplicates)
    rules: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    max_age_hours: float | None = None
    bounds: Bounds = field(default_factory=Bounds)
    on_broken: dict[str, OnBroken] = field(default_factory=dict)
    sql: Sql | None = None
    events: bool = False

    def __post_init__(self) -> None:
        key = "use_case.sources.<source>"
        require(not (self.path and self.sql), f"{key}.path", self.path, "either path or sql")
        require(not self.events or bool(self.columns), f"{key}.events", True, "a source that declares its columns")

    def chosen(self, rule: str, column: str = "") -> OnBroken | None:
        """What ``on_broken`` says of ``rule`` on ``column``: its most exact key; None where it has no say."""
        return self.on_broken.get(f"{column}.{rule}") or self.on_broken.get(rule)

    def names(self) -> set[str]:
        """The columns that rows will have; empty where conf declares none and the file decides."""
        return {*self.columns, *self.derive} if self.columns else set()


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
    ``maturity_days`` is how many days a label takes to be known, after the horizon of ``cuts``: no younger example is
    learnt from, and no younger decision is measured. ``keep_days`` leaves out examples older than that many days before
    the newest one; with ``feedback`` decisions whose outcome is known become examples too.
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

    @property
    def label_delay(self) -> timedelta:
        """How long after a decision its outcome is known: the horizon of ``cuts``, and ``maturity_days``."""
        horizon = self.horizon_days if self.kind is ExampleKind.cuts else 0
        return timedelta(days=horizon + self.maturity_days)


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
    encodings: dict[str, Encoding] = field(default_factory=dict)
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
        # Tables are named USE_CASE__SOURCE: the first double underscore must be the one between them.
        apart = "__" not in self.name and not self.name.endswith("_")
        require(apart, "use_case.name", self.name, "no two underscores in a row, and none at the end")
        known = ", ".join(self.sources) or "none are defined"
        require(
            self.examples.source in self.sources, "use_case.examples.source", self.examples.source, f"one of: {known}"
        )
        for name, source in self.sources.items():
            expected = "a name of letters, digits and underscores, as the route of its events has it"
            require(not source.events or name.isidentifier(), "use_case.sources", name, expected)
        for name, view in self.views.items():
            require(view.source in self.sources, f"use_case.views.{name}.source", view.source, f"one of: {known}")
            view.check(f"use_case.views.{name}", self.sources[view.source].names())
        if self.examples.kind is ExampleKind.cuts:
            label = self.examples.label_source
            require(label in self.sources, "use_case.examples.label_source", label, f"one of: {known}")
        else:
            require(bool(self.examples.label), "use_case.examples.label", self.examples.label, "a column of the source")
        self._check_encodings()

    def _check_encodings(self) -> None:
        """Encodings are of features; a target encoding is a mean, which a label of several classes has not."""
        for name, encoding in self.encodings.items():
            key = f"use_case.encodings.{name}"
            fits = encoding is not Encoding.target or self.task is not Task.multiclass
            require(fits, key, str(encoding), "onehot, ordinal or frequency with task multiclass")
        features = self._features()
        for name in self.encodings if features else ():
            if name not in features:
                raise ConfigError(
                    f"use_case.encodings names the feature {name!r}: the use case has {near(name, features)}."
                )

    def _features(self) -> set[str]:
        """Every name that a feature may have; empty where a source does not declare its columns."""
        views, example = self.views, self.sources[self.examples.source]
        if not all(self.sources[view.source].columns for view in views.values()) or not example.columns:
            return set()
        own = {f"{column}_lag_{back}" for column, all_back in self.examples.lags.items() for back in all_back}
        named = {(view, feature) for view in views for feature in views[view].features()}
        return own | {n for view, f in named for n in (f, f"{view}_{f}")} | (set() if views else example.names())
