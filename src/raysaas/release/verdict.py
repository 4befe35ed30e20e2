"""Whether a challenger may take over: guard-rails, and a sequential test to look at as often as wanted; pure.

The test is betting on differences (``blocks`` says of what): wealth that starts at 1 and is multiplied by
``1 + bet * difference`` is a non-negative supermartingale when the challenger is no better, so by Ville's inequality it
ever reaches ``1 / alpha`` with chance at most ``alpha``. It holds at every sample size, assumes no variance, and its
state is a few numbers.

References
----------
Waudby-Smith, I. and Ramdas, A. (2024). Estimating means of bounded random variables by betting. JRSS B 86.
Howard, S. R. et al. (2021). Time-uniform, nonparametric, nonasymptotic confidence sequences. Annals of Statistics 49.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from raysaas.errors import InputError
from raysaas.settings import Unproven

MAX_BET = 0.9


@dataclass(frozen=True, slots=True)
class Promote:
    """The challenger becomes the champion."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """The challenger leaves; the champion stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class Continue:
    """Keep splitting the traffic."""

    reason: str


Verdict = Promote | RollBack | Continue


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRail:
    """A number (error rate, p99) to stay at or below ``limit``, judged once ``num_seen`` reaches ``min_seen``."""

    name: str
    value: float
    limit: float
    num_seen: int
    min_seen: int = 100

    def broken(self) -> bool:
        """Whether enough was seen and the limit is passed; a value that is not a number counts as passed."""
        return self.num_seen >= self.min_seen and not self.value <= self.limit

    def told(self) -> str:
        """What was measured, in words."""
        return f"{self.name} is {self.value:.4g}, above {self.limit:.4g} after {self.num_seen}."


@dataclass(frozen=True, slots=True)
class Evidence:
    """What outcomes say so far. A difference is how much better the challenger did, from -1 to 1.

    ``log_better`` and ``log_worse`` are log wealths against "the challenger is no better" and "... no worse".

    >>> evidence = Evidence().add([0.5] * 20)
    >>> round(evidence.mean(), 2), evidence.log_better > 3 > evidence.log_worse
    (0.5, True)
    """

    num_pairs: int = 0
    total: float = 0.0
    squares: float = 0.0
    log_better: float = 0.0
    log_worse: float = 0.0
    peak_better: float = 0.0
    peak_worse: float = 0.0

    def add(self, differences: Iterable[float]) -> "Evidence":
        """The evidence after more pairs, in the order they came. Raises ``InputError`` for one outside -1..1."""
        n, total, squares = self.num_pairs, self.total, self.squares
        better, worse, top_better, top_worse = self.log_better, self.log_worse, self.peak_better, self.peak_worse
        for x in differences:
            if not -1.0 <= x <= 1.0:
                raise InputError(f"Loss difference {x!r} is not allowed: expected a number from -1 to 1.")
            bet = _bet(n, total, squares)
            better += math.log1p(max(bet, 0.0) * x)
            worse += math.log1p(min(bet, 0.0) * x)
            top_better, top_worse = max(top_better, better), max(top_worse, worse)
            n, total, squares = n + 1, total + x, squares + x * x
        return Evidence(n, total, squares, better, worse, top_better, top_worse)

    def mean(self) -> float:
        """How much better the challenger did on average; 0 before the first difference."""
        return self.total / self.num_pairs if self.num_pairs else 0.0

    def to_json(self) -> dict[str, float]:
        """The state as plain numbers; ``Evidence(**state)`` brings it back."""
        return asdict(self)


def _bet(n: int, total: float, squares: float) -> float:
    # Approximate growth-optimal bet from earlier pairs only, so that wealth stays a martingale.
    mean = total / (n + 1)
    second = (squares + 0.25) / (n + 1)
    return max(-MAX_BET, min(MAX_BET, mean / second))


def decide(
    evidence: Evidence, guard_rails: Sequence[GuardRail] = (), *, alpha: float = 0.05, num_outcomes: int | None = None,
    max_outcomes: int = 20_000, unproven: Unproven = Unproven.roll_back, corrected: Evidence | None = None,
) -> Verdict:  # fmt: skip
    """Promote, RollBack or Continue, callable as often as wanted.

    Parameters
    ----------
    evidence : what outcomes say so far.
    guard_rails : any broken one rolls back at once.
    alpha : chance, over a whole release, of a proof between equal versions; half of it goes to each side.
    num_outcomes : of the challenger so far; by default the number of differences.
    max_outcomes, unproven : what happens after this many outcomes without proof.
    corrected : the evidence with outcomes as corrected since: it must prove the same. As it can only withhold a proof,
        the chance of a false one is no greater.
    """
    for rail in guard_rails:
        if rail.broken():
            return RollBack(rail.told())
    seen = evidence.num_pairs if num_outcomes is None else num_outcomes
    proofs = (evidence, corrected or evidence)
    gain, bar = proofs[1].mean(), math.log(2 / alpha)
    if all(one.peak_worse >= bar and one.mean() < 0 for one in proofs):
        return RollBack(f"The challenger is worse by {-gain:.4f} after {seen} outcomes (alpha {alpha:g}).")
    if all(one.peak_better >= bar and one.mean() > 0 for one in proofs):
        return Promote(f"The challenger is better by {gain:.4f} after {seen} outcomes (alpha {alpha:g}).")
    if seen >= max_outcomes:
        told = f"The challenger proved neither better nor worse in {seen} outcomes ({gain:+.4f})."
        return Promote(told) if unproven is Unproven.promote else RollBack(told)
    return Continue(f"{gain:+.4f} after {seen} outcomes proves nothing yet.")
