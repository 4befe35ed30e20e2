"""One version against the champion: the evidence as it was bet on, and the same with outcomes as they are known now."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raysaas.release.blocks import CHALLENGER, Block, difference
from raysaas.release.verdict import Evidence

MAX_SETTLED = 50_000  # outcomes in closed blocks that can still be corrected

Reading = tuple[str, float]  # kind of outcome, and the score or loss


@dataclass(slots=True, kw_only=True)
class Contest:
    """``evidence`` is bet on every block as it was when it closed. Nothing edits it, so that its chance of a false
    proof stays bounded however often one looks.

    :meth:`as_known` bets on the same blocks as corrected since: ``settled`` are the values of the newest closed ones,
    ``differences`` what they say, and ``base`` is the evidence of those before, which stay as they are.
    """

    block: Block
    evidence: Evidence = field(default_factory=Evidence)
    num_outcomes: int = 0
    settled: list[dict[str, list[float]]] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)
    base: Evidence = field(default_factory=Evidence)
    corrected: Evidence = field(default_factory=Evidence)
    stale: bool = False
    num_settled: int = 0

    def add(self, side: str, kind: str, value: float) -> int:
        """One outcome of a side; the number of the block that it is in."""
        number = self.evidence.num_pairs
        self.num_outcomes += side == CHALLENGER
        self.block.add(side, kind, value)
        self._close()
        return number

    def correct(self, number: int, side: str, old: Reading | None, new: Reading | None) -> None:
        """An outcome in block ``number`` became another one; None is one that says nothing. Old blocks are over."""
        place = number - self.base.num_pairs
        if place == len(self.settled):
            _swap(self.block.values, side, old, new)
            self._close()
        elif place >= 0:
            _swap(self.settled[place], side, old, new)
            self.differences[place] = difference(self.settled[place], self.block.kinds) or 0.0
            self.stale = True

    def as_known(self) -> Evidence:
        """The evidence with all outcomes as corrected so far."""
        if self.stale:
            self.corrected, self.stale = self.base.add(self.differences), False
        return self.corrected

    def told(self, version: int) -> dict[str, Any]:
        """How it stands, in plain JSON types."""
        return {"version": version, "outcomes": self.num_outcomes, "gain": self.as_known().mean()}

    def _close(self) -> None:
        values = self.block.values
        if (found := self.block.close()) is None:
            return
        self.corrected = self.as_known().add([found])
        self.evidence = self.evidence.add([found])
        self.settled.append(values)
        self.differences.append(found)
        self.num_settled += _size(values)
        while self.num_settled > MAX_SETTLED:
            self.num_settled -= _size(self.settled.pop(0))
            self.base = self.base.add([self.differences.pop(0)])

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Contest":
        """Inverse of ``dataclasses.asdict``; of an earlier release's, closed blocks can no more be corrected."""
        known = {name: data.get(name, data["evidence"]) for name in ("evidence", "base", "corrected")}
        evidence = {name: Evidence(**told) for name, told in known.items()}
        return cls(**{**data, **evidence, "block": Block(**{**data["block"], "kinds": tuple(data["block"]["kinds"])})})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def _swap(values: dict[str, list[float]], side: str, old: Reading | None, new: Reading | None) -> None:
    # Equal values stand for each other, so it need not be known which of them was this decision's.
    if old is not None:
        values[f"{side}/{old[0]}"].remove(old[1])
    if new is not None:
        values.setdefault(f"{side}/{new[0]}", []).append(new[1])


def _size(values: Mapping[str, list[float]]) -> int:
    return sum(map(len, values.values()))
