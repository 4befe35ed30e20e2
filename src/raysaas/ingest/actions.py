"""What a broken rule does to its row or its batch: the names of the rules, and ``on_broken`` resolved. Pure."""

import difflib
from collections.abc import Iterable

from raysaas.errors import ConfigError
from raysaas.use_case import Keep, OnBroken, Source

ROW = ("type", "finite", "required", "min", "max", "values", "pattern", "future")
MALFORMED = ("columns", "json")
ACROSS = ("references", "unique", "time_order")
BATCH = (
    "max_null_rate", "max_age_hours", "min_rows", "max_rows", "min_row_ratio", "max_row_ratio", "max_null_increase",
)  # fmt: skip
_OF_COLUMNS = ("references", "max_null_rate", "max_null_increase")
DROPPED = "drop"  # what happens to an exact copy where ``duplicates.exact`` is ``first``: counted, kept nowhere


def action(source: Source, rule: str, column: str = "") -> OnBroken:
    """What ``source`` does when ``rule`` is broken on ``column``: the most exact key of ``on_broken``, or the default.

    Rules of a batch refuse the batch, all others the row.
    """
    return source.chosen(rule, column) or (OnBroken.refuse_batch if rule in BATCH else OnBroken.refuse_row)


def refuses_keys(source: Source) -> bool:
    """Whether rows whose unique key came before break the rule ``unique``."""
    return bool(source.unique) and source.duplicates.key is Keep.first


def drops_copies(source: Source) -> bool:
    """Whether later exact copies of a row are dropped."""
    return source.duplicates.exact is Keep.first


def validate_rules(source: Source, name: str, known: Iterable[str]) -> None:
    """Check names of ``rules`` and keys of ``on_broken`` against the columns ``known``. Raises ConfigError."""
    at, columns = f"use_case.sources.{name}", list(known)
    for rule in source.rules:
        if rule in (*ROW, *MALFORMED, *ACROSS, *BATCH) or not rule.isidentifier():
            raise ConfigError(
                f"{at}.rules.{rule}: choose a name of letters, digits and underscores that no built-in rule has."
            )
    rules = (*ROW, *MALFORMED, *ACROSS, *BATCH, *source.rules)
    keys = {*rules, *(f"{column}.{rule}" for column in columns for rule in (*ROW, *_OF_COLUMNS))}
    for key, chosen in source.on_broken.items():
        if key not in keys:
            near = difflib.get_close_matches(key, sorted(keys), n=1, cutoff=0.5)
            meant = f"did you mean {near[0]!r}?" if near else f"expected RULE or COLUMN.RULE, RULE one of {rules}."
            raise ConfigError(f"{at}.on_broken: {key!r} is no rule of this source; {meant}")
        _possible(source, at, key, chosen)


def _possible(source: Source, at: str, key: str, chosen: OnBroken) -> None:
    """Raise ConfigError where there is no row to refuse, or none to keep."""
    column, _, rule = key.rpartition(".")
    if rule in BATCH and chosen is OnBroken.refuse_row:
        raise ConfigError(
            f"{at}.on_broken.{key}=refuse_row: this rule looks at the batch; choose refuse_batch or warn."
        )
    roles = {source.entity, source.tenant, source.time, source.known_at}
    if chosen is OnBroken.warn and (rule in MALFORMED or (rule == "required" and column in roles)):
        raise ConfigError(
            f"{at}.on_broken.{key}=warn: such a row has no place in the table; choose refuse_row or refuse_batch."
        )
