"""Whether the traffic was split as the release says: a sample-ratio test to look at as often as wanted; pure.

The Dirichlet-multinomial mixture of all other splits against the intended one is a non-negative martingale when the
split is right, so it ever reaches ``1 / ALPHA`` with chance at most ``ALPHA``. Units are entities, each counted once:
an arm is drawn for an entity, and one that asks often proves nothing.

References
----------
Lindon, M. and Malek, A. (2022). Anytime-valid inference for multinomial count data. NeurIPS 35.
"""

import math
from collections.abc import Mapping

ALPHA = 0.001
_WEIGHT = 1000.0  # how near the intended split the mixture looks: deviations of a few per cent of traffic


def log_evidence(counts: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Log of the martingale: how much better some other split explains ``counts`` than ``shares`` (which add up to 1).

    >>> fair = {"champion": 0.5, "challenger": 0.5}
    >>> log_evidence({"champion": 5030, "challenger": 4970}, fair) < 0
    True
    >>> log_evidence({"champion": 5300, "challenger": 4700}, fair) > math.log(1 / ALPHA)
    True
    """
    total = sum(counts.values())
    told = math.lgamma(_WEIGHT) - math.lgamma(_WEIGHT + total)
    for name, share in shares.items():
        count, prior = counts.get(name, 0), _WEIGHT * share
        told += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return told


def broken(counts: Mapping[str, int], shares: Mapping[str, float]) -> str:
    """Why the split is not the intended one; empty when nothing is proven."""
    if log_evidence(counts, shares) < math.log(1 / ALPHA):
        return ""
    total = sum(counts.values())
    seen = ", ".join(f"{name} {counts.get(name, 0) / total:.2%} of {share:.2%}" for name, share in shares.items())
    return f"The split is broken: of {total} entities {seen} (sample-ratio mismatch)."
