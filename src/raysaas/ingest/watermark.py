"""How far a table was read: the offset of an incremental source, committed together with the rows. Pure.

Rows are read in the order of a column that only grows. The next run reads again from ``low`` on, the newest watermark
of the last run (or ``lag`` before it), because rows may still come with that very value; those that were taken already
are known by the hashes of their contents, a multiset, so that two equal rows stay two.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import compress
from typing import Any

import orjson

from raysaas.errors import ConfigError

Row = Sequence[Any]
_READ: dict[str, Callable[[str], Any]] = {
    "datetime": datetime.fromisoformat, "date": date.fromisoformat, "int": int, "float": float, "Decimal": Decimal,
    "str": str,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offset:
    """Where reading goes on. ``taken`` counts, by hash over ``columns``, the rows from ``low`` on that were taken."""

    column: str
    low: Any
    high: Any
    columns: tuple[str, ...]
    taken: Counter[str]

    def to_json(self) -> str:
        """As text, types of the watermarks kept."""
        low, high = (_spelled(value) for value in (self.low, self.high))
        body = {"column": self.column, "low": low, "high": high, "columns": self.columns, "taken": self.taken}
        return json.dumps(body)

    @classmethod
    def from_json(cls, text: str) -> "Offset":
        """Inverse of ``to_json``."""
        body = json.loads(text)
        low, high = (_READ[kind](value) for kind, value in (body["low"], body["high"]))
        return cls(body["column"], low, high, tuple(body["columns"]), Counter(body["taken"]))


def _spelled(value: Any) -> list[str]:
    kind = type(value).__name__
    return [kind if kind in _READ else "str", str(value)]


def row_hash(row: Row) -> bytes:
    """128 bits of SHA-256 over a row's values."""
    return hashlib.sha256(orjson.dumps(list(row), default=str)).digest()[:16]


class Digest:
    """Of a multiset of rows: equal for equal rows in whatever order."""

    def __init__(self) -> None:
        self._sum, self._num = 0, 0

    def add(self, hashed: Sequence[bytes]) -> None:
        """Count in rows by their hashes."""
        self._sum += sum(int.from_bytes(one) for one in hashed)
        self._num += len(hashed)

    def hexdigest(self, *context: str) -> str:
        """SHA-256 of all rows so far and of ``context``."""
        return hashlib.sha256(repr((self._sum, self._num, context)).encode()).hexdigest()


class Progress:
    """One run over the rows from ``before.low`` on, in watermark order: which are new, and the offset behind them."""

    def __init__(self, column: str, before: Offset | None, names: Sequence[str], lag: float = 0.0) -> None:
        self.names, self.column, self.before, self.lag = tuple(names), column, before, lag
        self.high: Any = before.high if before else None
        self._at = self.names.index(column)
        self._left = Counter(before.taken) if before else Counter()
        self._window: deque[tuple[Any, bytes]] = deque()
        known = before.columns if before else self.names
        # Columns that are gone leave nothing to compare: then what lies within the old window counts as taken.
        self._picked = [self.names.index(name) for name in known] if set(known) <= set(self.names) else None

    @property
    def comparable(self) -> bool:
        """Whether rows can be told from those taken before; not when the table has lost a column since."""
        return self._picked is not None

    def fresh(self, rows: Sequence[Row], digest: Digest) -> Sequence[Row]:
        """The rows that no run has taken yet; they are counted into ``digest``."""
        hashed = [row_hash(row) for row in rows]
        self._remember(rows, hashed)
        if any(self._left.values()):
            new = [not self._was_taken(row, one) for row, one in zip(rows, hashed, strict=True)]
            rows, hashed = list(compress(rows, new)), list(compress(hashed, new))
        digest.add(hashed)
        return rows

    def _was_taken(self, row: Row, hashed: bytes) -> bool:
        if self.before is None:
            return False
        if self._picked is None:
            return bool(row[self._at] <= self.before.high)
        key = (hashed if self.before.columns == self.names else row_hash([row[i] for i in self._picked])).hex()
        if not self._left[key]:
            return False
        self._left[key] -= 1
        return True

    def _remember(self, rows: Sequence[Row], hashed: Sequence[bytes]) -> None:
        if not rows:
            return
        self.high = rows[-1][self._at]
        self._window.extend((row[self._at], one) for row, one in zip(rows, hashed, strict=True))
        if not self.lag:
            # Compared for being equal only: the order of texts is the database's own.
            while self._window[0][0] != self.high:
                self._window.popleft()
            return
        low = _behind(self.high, self.lag, self.column)
        while self._window[0][0] < low:
            self._window.popleft()

    def offset(self) -> Offset | None:
        """Where the next run goes on; None when no row was seen."""
        if not self._window:
            return self.before
        low = _behind(self.high, self.lag, self.column) if self.lag else self.high
        if self.lag and self.before is not None:
            low = max(low, self.before.low)  # what lies before that was not read this time
        taken = Counter(hashed.hex() for _, hashed in self._window)
        return Offset(self.column, low, self.high, self.names, taken)


def _behind(watermark: Any, lag: float, column: str) -> Any:
    if isinstance(watermark, datetime | date):
        return watermark - timedelta(seconds=lag)
    if isinstance(watermark, int | float | Decimal):
        step: Any = type(watermark)(lag)
        return watermark - step
    raise ConfigError(f"The watermark {column!r} holds text: sql.lag needs one of numbers or times.")
