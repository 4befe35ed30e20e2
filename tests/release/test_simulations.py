"""The whole verdict on simulated releases: live arms, whose outcomes are no pairs, judged after every block."""

import numpy as np
import pytest
from scipy.stats import norm

from raysaas.release.blocks import CHALLENGER, CHAMPION, Block
from raysaas.release.contest import Contest
from raysaas.release.verdict import Continue, Promote, RollBack, decide

BASE_RATE, AUC = 0.27, 0.80


def release(rng: np.random.Generator, gain: float, share: float, num_outcomes: int) -> tuple[type, int]:
    """One release of two calibrated binormal models: its verdict and after how many outcomes of the challenger."""
    num = int(num_outcomes / share)
    arms, positive = rng.random(num) < share, rng.random(num) < BASE_RATE
    apart = np.sqrt(2) * norm.ppf(np.where(arms, AUC + gain, AUC))
    scores = rng.normal(size=num) + np.where(positive, apart, 0.0)
    contest, judged = Contest(block=Block(kinds=("0", "1"))), 0
    for challenger, label, score in zip(arms.tolist(), positive.tolist(), scores.tolist(), strict=True):
        contest.add(CHALLENGER if challenger else CHAMPION, str(int(label)), score)
        if contest.evidence.num_pairs > judged:
            judged = contest.evidence.num_pairs
            verdict = decide(contest.evidence, num_outcomes=contest.num_outcomes, max_outcomes=10**9)
            if not isinstance(verdict, Continue):
                return type(verdict), contest.num_outcomes
    return Continue, contest.num_outcomes


def test_of_500_releases_of_equal_versions_at_most_five_percent_get_a_verdict() -> None:
    rng = np.random.default_rng(0)
    verdicts = [release(rng, 0.0, 0.5, 2000)[0] for _ in range(500)]
    false = sum(verdict is not Continue for verdict in verdicts)
    assert false <= 25, f"{false} of 500 A/A releases got a verdict"


@pytest.mark.parametrize(("gain", "expected"), [(0.03, Promote), (-0.03, RollBack)])
def test_a_difference_of_three_points_of_auc_is_found(gain: float, expected: type) -> None:
    rng = np.random.default_rng(1)
    found = [release(rng, gain, 0.25, 20_000) for _ in range(100)]
    right = [num for verdict, num in found if verdict is expected]
    assert len(right) >= 90, f"{len(right)} of 100 were right"
    assert np.median(right) < 6000, "docs/RELEASES.md says how many it takes"
