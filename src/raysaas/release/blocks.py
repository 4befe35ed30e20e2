"""From matured outcomes to differences that a sequential test can bet on; numpy only.

Live arms answer different entities, so their outcomes are no pairs. What is compared is blocks: as soon as both sides
have ``SIZE`` outcomes of each kind, the block closes and gives one number, from -1 to 1, whose mean is the true
difference whatever the sizes are, because no outcome is in two blocks. For a binary task that is the difference of the
AUCs inside the block (a two-sample U-statistic): it leaves out how often labels are positive, which is most of the
noise of a Brier score, and needs a fifth to two fifths fewer (docs/RELEASES.md). Other tasks take mean losses.

References
----------
Hanley, J. A. and McNeil, B. J. (1982). The meaning and use of the area under a ROC curve. Radiology 143.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SIZE = 3
BURN_IN = 50
_TRIMMED = 9.0  # squared errors are scaled by this many times the champion's first mean, and cut there

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(slots=True)
class Block:
    """The outcomes of an unfinished block: values by side and kind of outcome.

    >>> block = Block(kinds=("0", "1"))
    >>> for side, positive in (("champion", 0.4), ("challenger", 0.9)):
    ...     for _ in range(3):
    ...         _ = block.add(side, "0", 0.5), block.add(side, "1", positive)
    >>> block.close(), block.close()
    (1.0, None)
    """

    kinds: tuple[str, ...] = ("",)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, side: str, kind: str, value: float) -> None:
        """One outcome: a score of a binary task with its label as ``kind``, else a loss from 0 to 1."""
        self.values.setdefault(f"{side}/{kind}", []).append(value)

    def close(self) -> float | None:
        """How much better the challenger did, when both sides have enough of each kind; the next block starts."""
        for side in (CHALLENGER, CHAMPION):  # whom it is mostly waited for first
            for kind in self.kinds:
                if len(self.values.get(f"{side}/{kind}", ())) < SIZE:
                    return None
        values, self.values = self.values, {}
        return difference(values, self.kinds)


def difference(values: Mapping[str, Sequence[float]], kinds: Sequence[str]) -> float | None:
    """How much better the challenger did on these outcomes, None when a side has none of some kind."""
    sides = [values.get(f"{side}/{kind}", ()) for side in (CHALLENGER, CHAMPION) for kind in kinds]
    if not all(map(len, sides)):
        return None
    if len(kinds) == 2:
        return concordance(sides[0], sides[1]) - concordance(sides[2], sides[3])
    return float(np.mean(sides[1]) - np.mean(sides[0]))


def concordance(negatives: Sequence[float], positives: Sequence[float]) -> float:
    """AUC: the share of (negative, positive) pairs whose positive has the higher score; ties count half."""
    ranked = np.sort(negatives)
    below = np.searchsorted(ranked, positives, "left") + np.searchsorted(ranked, positives, "right")
    return float(below.mean() / (2 * len(ranked)))


@dataclass(slots=True)
class Loss:
    """How wrong a value was, from 0 to 1: a wrong label is 1; a squared error is measured in the champion's first."""

    first: list[float] = field(default_factory=list)
    scale: float = 0.0

    def of(self, side: str, predicted: Mapping[str, Any], truth: str) -> float | None:
        """The loss of one decision, None while the scale is being found. ``predicted`` has ``score`` and ``label``."""
        if predicted["label"] is not None:
            return float(predicted["label"] != truth)
        error = (float(predicted["score"]) - float(truth)) ** 2
        if self.scale == 0.0:
            self._learn(side, error)
            return None
        return min(error / self.scale, 1.0)

    def _learn(self, side: str, error: float) -> None:
        if side == CHAMPION:
            self.first.append(error)
        if len(self.first) >= BURN_IN:
            self.scale, self.first = _TRIMMED * float(np.mean(self.first)) or 1.0, []
