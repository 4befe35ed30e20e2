"""One version under watch: its unfinished windows, and the decisions whose outcome may still come or be corrected."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from raysaas.drift.performance import Matured
from raysaas.drift.sketches import DecisionWindow
from raysaas.stores.outcomes import Told, id_of, key_name, name_of

MAX_REPORTED = 10_000  # outcomes in reported windows that can still be corrected, beside the newest window's

Row = tuple[float, str | None, str]
Change = Literal["", "first", "corrected"]


@dataclass(slots=True)
class OutcomeWindow:
    """Decisions with their outcomes, in the order these first came, by decision. The rest is of a reported one:
    its number and when it ended, and how many of its outcomes were corrected since."""

    rows: dict[str, Matured] = field(default_factory=dict)
    number: int = 0
    ended_at: str = ""
    num_corrected: int = 0
    stale: bool = False

    def span(self) -> tuple[str, str]:
        """The first and the last decision."""
        return id_of(next(iter(self.rows), "")), id_of(next(reversed(self.rows), ""))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "OutcomeWindow":
        """Inverse of ``to_json``."""
        return cls(**{**data, "rows": {key: Matured(*row) for key, row in data["rows"].items()}})


@dataclass(slots=True)
class Track:
    """The windows of one version and the number of the next report.

    ``pending`` maps a decision (``name_of``) to its score, label and time until the outcome comes, ``refused`` to an
    outcome that is no label of the model, and ``named`` the caller's own key to decisions. ``reported`` are the newest
    windows of outcomes, whose reports a correction changes. ``since`` is the release's first window. ``baseline`` is
    the first measured performance, of window ``baseline_of``: the reference where the bundle names none.
    """

    next_window: int = 1
    since: int = 1
    decisions: DecisionWindow | None = None
    pending: dict[str, Row] = field(default_factory=dict)
    refused: dict[str, Told] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)
    matured: OutcomeWindow = field(default_factory=OutcomeWindow)
    reported: list[OutcomeWindow] = field(default_factory=list)
    baseline: dict[str, float] = field(default_factory=dict)
    baseline_of: int = 0
    num_named: int = 0

    def restart(self) -> None:
        """Forget unfinished windows, and reported ones too; numbers go on."""
        self.since, self.decisions, self.pending, self.refused = self.next_window, None, {}, {}
        self.named, self.num_named, self.matured, self.reported = {}, 0, OutcomeWindow(), []

    def remember(self, record: Mapping[str, Any]) -> str:
        """Wait for the outcome of a decision; returns its name here."""
        name = name_of(record.get("tenant"), record["id"])
        self.pending[name] = (float(record["score"]), record.get("label"), record["time"])
        if record.get("key") is not None:
            self.named.setdefault(key_name(record), []).append(name)
            self.num_named += 1
        return name

    def trim(self, most: int) -> None:
        """Wait for no more than ``most`` outcomes, the newest decisions'; keys stay with the decisions they name."""
        for key in list(islice(self.pending, max(len(self.pending) - most, 0))):
            del self.pending[key]
            self.refused.pop(key, None)
        if self.num_named > 2 * most:
            alive = {name: [key for key in keys if self.knows(key)] for name, keys in self.named.items()}
            self.named = {name: keys for name, keys in alive.items() if keys}
            self.num_named = sum(map(len, self.named.values()))

    def knows(self, key: str) -> bool:
        """Whether an outcome of this decision still says something."""
        return key in self.pending or self._window(key) is not None

    def decided(self, outcome: Mapping[str, Any]) -> list[str]:
        """The decisions here that an outcome is of, by id or by key; those of its own tenant."""
        if outcome.get("decision_id"):
            names = [name_of(outcome.get("tenant"), outcome["decision_id"])]
        else:
            names = self.named.get(key_name(outcome), [])
        return [name for name in names if self.knows(name)]

    def tell(self, key: str, told: Told, *, usable: bool) -> Change:
        """Take an outcome of a known decision, ``usable`` when the model has that label; what it changed."""
        window = self._window(key)
        if window is None:
            return self._first(key, told, usable=usable)
        row = window.rows[key]
        if told <= Told(row.observed_us, row.known_us, row.outcome):
            return ""
        changed = told.label != row.outcome
        if usable:
            window.rows[key] = _row((row.score, row.label, row.moment), told)
        else:
            del window.rows[key]
            self.pending[key], self.refused[key] = (row.score, row.label, row.moment), told
        window.stale |= changed
        window.num_corrected += changed
        return "corrected" if changed else ""

    def _first(self, key: str, told: Told, *, usable: bool) -> Change:
        if key in self.refused and told <= self.refused[key]:
            return ""
        if not usable:
            self.refused[key] = told
            return ""
        self.refused.pop(key, None)
        self.matured.rows[key] = _row(self.pending.pop(key), told)
        return "first"

    def close(self, now: datetime) -> OutcomeWindow:
        """End the open window of outcomes: it gets a number, and stays until newer ones fill its place."""
        done, self.matured = self.matured, OutcomeWindow()
        done.number, done.ended_at, done.num_corrected, done.stale = self.number(), now.isoformat(), 0, False
        self.reported.append(done)
        while len(self.reported) > 1 and sum(len(one.rows) for one in self.reported) > MAX_REPORTED:
            del self.reported[0]
        return done

    def number(self) -> int:
        """The number of the next report, which is taken by that."""
        self.next_window += 1
        return self.next_window - 1

    def _window(self, key: str) -> OutcomeWindow | None:
        return next((one for one in (self.matured, *self.reported) if key in one.rows), None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        own = {"decisions", "matured", "reported", "num_named"}
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in own}
        return plain | {
            "decisions": self.decisions.to_json() if self.decisions else None,
            "matured": self.matured.to_json(),
            "reported": [window.to_json() for window in self.reported],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Track":
        """Inverse of ``to_json``, of earlier releases too."""
        known = {name: value for name, value in data.items() if name in cls.__dataclass_fields__}
        earlier = isinstance(data["matured"], list)
        rows = {f"earlier-{i}": row for i, row in enumerate(data["matured"])} if earlier else {}
        named = _hashed(data.get("named", {})) if earlier else data["named"]
        return cls(**{
            **known,
            "decisions": DecisionWindow.from_json(data["decisions"]) if data["decisions"] else None,
            "pending": {key: (row[0], row[1], (*row, "")[2]) for key, row in data["pending"].items()},
            "refused": {key: Told(*told) for key, told in data.get("refused", {}).items()},
            "named": named,
            "num_named": sum(map(len, named.values())),
            "matured": OutcomeWindow.from_json({"rows": rows} if earlier else data["matured"]),
            "reported": [OutcomeWindow.from_json(window) for window in data.get("reported", [])],
        })  # fmt: skip


def _row(decided: Row, told: Told) -> Matured:
    score, label, moment = decided
    return Matured(score, label, told.label, moment, told.observed_us, told.known_us)


def _hashed(named: Mapping[str, list[str]]) -> dict[str, list[str]]:
    pairs = [(json.loads(name), keys) for name, keys in named.items()]
    return {key_name({"tenant": tenant, "key": key}): keys for (tenant, key), keys in pairs}
