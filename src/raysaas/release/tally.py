"""What one arm did, outcomes aside: errors, latency, scores and missing values; and the guard-rails made of two arms.

Guard-rails are coarse on purpose: they stop a version that is broken, at once and without outcomes. Whether one is
better or worse is the verdict's to say.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raysaas.release.verdict import GuardRail
from raysaas.settings import ReleasePolicy

NUM_BINS = 10
_MIN_TIMED = 500  # requests, before a p99 says anything
_SLACK_MS = 5.0  # a p99 this much over the champion's is never called slow
_ALL_MISSING = 0.95


@dataclass(slots=True)
class Tally:
    """Counts of one arm. ``latency`` maps the upper edge of a bucket in ms to its count; scores are kept as bins."""

    num: int = 0
    scores: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    missing: dict[str, int] = field(default_factory=dict)
    answered: int = 0
    errors: int = 0
    latency: dict[str, int] = field(default_factory=dict)

    def decision(self, inputs: Mapping[str, Any]) -> None:
        """One answered row and what it was answered from."""
        self.num += 1
        for name, value in inputs.items():
            gone = value is None or (isinstance(value, float) and math.isnan(value))
            self.missing[name] = self.missing.get(name, 0) + gone

    def score(self, value: float, edges: Sequence[float]) -> None:
        """One score; ``edges`` are the inner edges of the bins."""
        self.scores[int(np.searchsorted(edges, value, "right"))] += 1

    def stats(self, record: Mapping[str, Any]) -> None:
        """A replica's counts of a second (journal kind ``stats``)."""
        self.answered += int(record["num"])
        self.errors += int(record["errors"])
        for edge, count in record["latency"].items():
            self.latency[edge] = self.latency.get(edge, 0) + int(count)

    def p99_ms(self) -> float:
        """The 99th percentile of the latency, as its bucket's upper edge; 0 when nothing was timed."""
        left = 0.99 * sum(self.latency.values())
        for edge, count in sorted((float(edge), count) for edge, count in self.latency.items()):
            left -= count
            if left <= 0:
                return edge
        return 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; ``Tally(**state)`` brings it back."""
        return asdict(self)


def rails(champion: Tally, challenger: Tally, policy: ReleasePolicy) -> list[GuardRail]:
    """Errors, p99, scores and missing values of the challenger against the champion's."""
    slow = max(policy.max_latency_ratio * champion.p99_ms(), champion.p99_ms() + _SLACK_MS)
    timed = min(sum(champion.latency.values()), sum(challenger.latency.values()))
    scored = min(sum(champion.scores), sum(challenger.scores))
    seen = {"num_seen": min(champion.num, challenger.num), "min_seen": policy.stage_decisions}
    return [
        GuardRail(name="The share of errors over the champion's", value=_share(challenger) - _share(champion),
                  limit=policy.max_errors, num_seen=challenger.answered),
        GuardRail(name="The p99 in ms", value=challenger.p99_ms(), limit=slow, num_seen=timed, min_seen=_MIN_TIMED),
        GuardRail(name="The PSI between the scores of both", value=_psi(champion.scores, challenger.scores),
                  limit=policy.max_score_psi, num_seen=scored, min_seen=policy.stage_decisions),
        *(GuardRail(name=f"The share of missing values of {name} over the champion's", value=value,
                    limit=policy.max_missing, **seen) for name, value in _missing(champion, challenger).items()),
    ]  # fmt: skip


def _missing(champion: Tally, challenger: Tally) -> dict[str, float]:
    found = {}
    for name, count in challenger.missing.items():
        share = count / max(challenger.num, 1)
        if name in champion.missing:
            found[name] = share - champion.missing[name] / max(champion.num, 1)
        elif share >= _ALL_MISSING:  # of a feature that is new, the champion says nothing
            found[name] = share
    return found


def _share(tally: Tally) -> float:
    return tally.errors / tally.answered if tally.answered else 0.0


def _psi(expected: Sequence[int], actual: Sequence[int]) -> float:
    """Population stability index, the part that mere chance explains taken off."""
    e, a = np.asarray(expected) + 0.5, np.asarray(actual) + 0.5
    p, q = e / e.sum(), a / a.sum()
    noise = (NUM_BINS - 1) * (1 / e.sum() + 1 / a.sum())
    return float(((q - p) * np.log(q / p)).sum() - noise)
