"""One feature view as conf writes it: the features it has, what each is made of, and what is wrong with it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import chain

from raysaas.errors import ConfigError

SUMS = ("sum", "mean")
FUNCTIONS = (*SUMS, "min", "max", "last", "distinct")
# Of the whole history, not of a window: days since the last and since the first row.
SINCE = ("since_last", "since_first")
CONTEXT = ("row_id", "tenant", "entity", "event_time", "known_at")


@dataclass(kw_only=True, slots=True)
class View:
    """One Feast feature view: columns of a source and their lags, or window aggregates over its rows.

    ``aggregates`` are ``count``, ``since_last``, ``since_first`` (days) or ``FUNCTION:COLUMN`` with FUNCTION one of
    sum, mean, min, max, last, distinct; each is computed over every window of ``windows_days`` before the cut.
    ``lags`` adds the values of columns that many rows of the same entity earlier, null where those were not known yet
    when the row happened. ``ratios`` and ``differences`` name a new feature and the two features of this view that it
    is made of; what has no finite value, such as a ratio to zero, is null.
    """

    source: str = ""
    columns: list[str] = field(default_factory=list)
    windows_days: list[int] = field(default_factory=list)
    aggregates: list[str] = field(default_factory=list)
    lags: dict[str, list[int]] = field(default_factory=dict)
    ratios: dict[str, list[str]] = field(default_factory=dict)
    differences: dict[str, list[str]] = field(default_factory=dict)
    ttl_days: int | None = None

    def inputs(self) -> list[str]:
        """The columns of the source that the features are made of."""
        aggregated = (aggregate.partition(":")[2] for aggregate in self.aggregates)
        return list(dict.fromkeys([*self.columns, *self.lags, *filter(None, aggregated)]))

    def features(self) -> list[str]:
        """Names of the features, in their order."""
        return [*self._plain(), *self.ratios, *self.differences]

    def _plain(self) -> list[str]:
        lags = [lag_name(column, back) for column, all_back in self.lags.items() for back in all_back]
        return [*self.columns, *lags, *chain.from_iterable(map(self._of_aggregate, self.aggregates))]

    def _of_aggregate(self, aggregate: str) -> Iterator[str]:
        windows = [1] if aggregate in SINCE else self.windows_days
        return (aggregate_name(aggregate, days) for days in windows)

    def check(self, key: str, known: Collection[str]) -> None:
        """Raise ConfigError naming what is wrong; ``known`` are the source's columns, empty where it declares none."""
        self._check_shape(key)
        for column in self.inputs() if known else ():
            if column not in known and column not in CONTEXT:
                raise ConfigError(
                    f"{key} names the column {column!r}: source {self.source!r} has {near(column, known)}."
                )
        for kind, made in (("ratios", self.ratios), ("differences", self.differences)):
            for name, parts in made.items():
                if len(parts) != 2:
                    raise ConfigError(f"{key}.{kind}.{name}={parts} is not allowed: expected two features of the view.")
                for part in [part for part in parts if part not in self._plain()]:
                    told = near(part, self._plain())
                    raise ConfigError(f"{key}.{kind}.{name} names the feature {part!r}: the view has {told}.")
        names = self.features()
        for name in [name for name in names if names.count(name) > 1 or name in CONTEXT]:
            raise ConfigError(
                f"{key} has a feature named {name!r} twice, or as the platform names a column: rename it."
            )

    def _check_shape(self, key: str) -> None:
        if self.aggregates and (self.columns or self.lags):
            raise ConfigError(f"{key} has aggregates and also columns or lags: make two views of them.")
        if bad := [days for days in self.windows_days if days <= 0]:
            raise ConfigError(f"{key}.windows_days={bad} is not allowed: expected positive numbers of days.")
        if lags := {column: back for column, back in self.lags.items() if not back or min(back) < 1}:
            raise ConfigError(f"{key}.lags={lags} is not allowed: expected lists of positive numbers of rows.")
        for aggregate in self.aggregates:
            check_aggregate(f"{key}.aggregates", aggregate)
            if aggregate not in SINCE and not self.windows_days:
                raise ConfigError(f"{key}.aggregates={aggregate!r} needs windows_days, such as [7, 28].")


def check_aggregate(key: str, aggregate: str) -> None:
    """Raise ConfigError unless ``aggregate`` is one."""
    function, _, column = aggregate.partition(":")
    if function not in FUNCTIONS if column else function not in ("count", *SINCE):
        raise ConfigError(
            f"{key}: {aggregate!r} is unknown: expected count, since_last, since_first or FUNCTION:COLUMN with "
            f"FUNCTION one of {', '.join(FUNCTIONS)}."
        )


def aggregate_name(aggregate: str, days: float) -> str:
    """``count_7d``, ``sum_amount_28d``, ``since_last_d``."""
    span = "" if aggregate in SINCE else f"{days:g}".replace(".", "_")
    return f"{aggregate.replace(':', '_', 1)}_{span}d"


def lag_name(column: str, back: int) -> str:
    """Name of the value of ``column`` that many rows earlier."""
    return f"{column}_lag_{back}"


def near(name: str, known: Collection[str]) -> str:
    """What there is instead of ``name``: the nearest name first."""
    close = get_close_matches(name, list(known), 1)
    return f"{close[0]!r} (and {len(known) - 1} more)" if close and len(known) > 1 else f"{sorted(known)[:20]}"
