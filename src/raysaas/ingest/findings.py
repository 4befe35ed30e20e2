"""What the contract said of one batch, kept with its commit: counts per rule, nulls per column, broken bounds. Pure.

Only places are kept (file and row number), never values: who reads the report sees them, whoever forgets a row can.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raysaas.use_case import OnBroken

PROPERTY = "raysaas.contract"


@dataclass(frozen=True, slots=True)
class Broken:
    """How often a rule was broken on a column, with one example. ``action`` is an ``OnBroken``, or ``drop``."""

    rule: str
    column: str
    count: int
    value: str | None
    file: str
    row_number: int
    action: str = OnBroken.refuse_row

    @property
    def named(self) -> str:
        """The rule and its column in words."""
        return f"{self.rule} on {self.column}" if self.column else self.rule


@dataclass(frozen=True, slots=True)
class BatchFault:
    """A rule of the whole batch that it broke, in one sentence."""

    rule: str
    column: str
    said: str
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """One batch. ``nulls`` are those of its accepted rows; times are ISO; ``kind`` is ``files`` or ``replay``."""

    at: str
    kind: str = "files"
    read: int = 0
    accepted: int = 0
    refused: int = 0
    duplicates: int = 0
    warned: int = 0
    committed: bool = True
    newest: str | None = None
    nulls: Mapping[str, int] = field(default_factory=dict)
    rules: tuple[Broken, ...] = ()
    faults: tuple[BatchFault, ...] = ()
    day_first: Mapping[str, bool] = field(default_factory=dict)

    def to_json(self) -> str:
        """As JSON, values of rows left out."""
        return json.dumps(asdict(replace(self, rules=tuple(replace(one, value=None) for one in self.rules))))

    @classmethod
    def from_json(cls, text: str) -> "Findings":
        """What ``to_json`` wrote."""
        told: dict[str, Any] = json.loads(text)
        told["rules"] = tuple(Broken(**one) for one in told["rules"])
        told["faults"] = tuple(BatchFault(**one) for one in told["faults"])
        return cls(**told)


def last_accepted(snapshots: Iterable[Mapping[str, Any]]) -> Findings | None:
    """What was found of the newest batch of files that the table took, by the properties of its snapshots."""
    told = [s["properties"][PROPERTY] for s in snapshots if PROPERTY in s["properties"]]
    return next((f for f in map(Findings.from_json, reversed(told)) if f.kind == "files" and f.committed), None)
