"""Loops that read like the definitions of the point-in-time join and of the window aggregates."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

Row = Mapping[str, Any]
Item = tuple[int, Row]


def utc(moment: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    return None if moment is None else moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def visible(
    ask: Row, row: Row, keys: Sequence[str], known_at: datetime | None = None, known_by_event: bool = False
) -> bool:
    """Whether ``row`` happened, and was known, when ``ask`` was made."""
    if any(ask[key] is None or ask[key] != row[key] for key in keys):
        return False
    asked, happened, known = utc(ask["event_time"]), utc(row["event_time"]), utc(row.get("known_at"))
    if asked is None or happened is None or happened > asked:
        return False
    cuts = [cut for cut in (known_at, asked if known_by_event else None) if cut is not None]
    return all(known is not None and known <= cut for cut in cuts)


def rank(item: Item) -> tuple[Any, ...]:
    """Later events win, then what became known later (unknown is earliest), then the later row."""
    happened, known = utc(item[1]["event_time"]), utc(item[1].get("known_at"))
    return happened, known or datetime.min.replace(tzinfo=UTC), item[0]


def latest(ask: Row, rows: Sequence[Row], keys: Sequence[str], ttl: timedelta | None = None, **cuts: Any) -> Row | None:
    """The row that a point-in-time join finds for ``ask``."""
    items = [(i, row) for i, row in enumerate(rows) if visible(ask, row, keys, **cuts)]
    best = max(items, key=rank)[1] if items else None
    asked = utc(ask["event_time"])
    if best is None or asked is None or ttl is None:
        return best
    happened = utc(best["event_time"])
    return best if happened is not None and asked - happened <= ttl else None


def aggregate(name: str, ask: Row, rows: Sequence[Row], keys: Sequence[str], window: timedelta, **cuts: Any) -> Any:
    """The value of aggregate ``name`` over the rows that ``ask`` sees, at most ``window`` old (exclusive)."""
    history = [(i, row) for i, row in enumerate(rows) if visible(ask, row, keys, **cuts)]
    asked = utc(ask["event_time"])
    function, _, column = name.partition(":")
    if asked is None or function.startswith("since"):
        edge = {"since_last": max, "since_first": min}.get(function)
        ages = [(asked - (utc(row["event_time"]) or asked)) / timedelta(days=1) for _, row in history] if asked else []
        return None if not ages and edge else min(ages) if edge is max else max(ages) if edge else _of(function, [])
    inside = [item for item in history if (utc(item[1]["event_time"]) or asked) > asked - window]
    if function == "count":
        return len(inside)
    return _of(function, [row[column] for _, row in sorted(inside, key=rank) if _there(row[column])])


def _there(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _of(function: str, values: list[Any]) -> Any:
    if function in {"count", "distinct", "sum"}:
        return float(sum(values)) if function == "sum" else len(set(values))
    if not values:
        return None
    return {"mean": lambda: sum(values) / len(values), "min": lambda: min(values), "max": lambda: max(values),
            "last": lambda: values[-1]}[function]()  # fmt: skip


def same(left: object, right: object) -> bool:
    """Equal, with NaN equal to itself and room for the order in which floats are added."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, abs_tol=1e-12)
    return left == right
