"""How many decisions a verdict takes: ``python benchmarks/bench_verdict.py --releases 500``.

Simulated canaries of two calibrated binormal models (AUC 0.80, 27 % positives), judged after every block by the code
that the release actor runs: differences of AUC inside blocks, beside Brier losses inside blocks. A line says how many
releases ended with which verdict, and after how many outcomes of the challenger (median, 90th percentile).
"""

import argparse

import numpy as np
from scipy.stats import norm

from raysaas.release.blocks import CHALLENGER, CHAMPION, Block
from raysaas.release.contest import Contest
from raysaas.release.verdict import Continue, Promote, RollBack, decide

BASE_RATE, AUC, MAX_OUTCOMES = 0.27, 0.80, 20_000


def traffic(
    rng: np.random.Generator, gain: float, share: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arms, labels, scores and calibrated probabilities of one release."""
    num = int(MAX_OUTCOMES / share)
    arms, positive = rng.random(num) < share, rng.random(num) < BASE_RATE
    apart = np.sqrt(2) * norm.ppf(np.where(arms, AUC + gain, AUC))
    scores = rng.normal(size=num) + np.where(positive, apart, 0.0)
    odds = np.exp(apart * scores - apart**2 / 2) * BASE_RATE / (1 - BASE_RATE)
    return arms, positive, scores, odds / (1 + odds)


def release(rng: np.random.Generator, gain: float, share: float, *, brier: bool) -> tuple[type, int]:
    """The verdict of one release and after how many outcomes of the challenger it came."""
    arms, positive, scores, chances = traffic(rng, gain, share)
    values = (chances - positive) ** 2 if brier else scores
    contest, judged = Contest(block=Block(kinds=("",) if brier else ("0", "1"))), 0
    for challenger, label, value in zip(arms.tolist(), positive.tolist(), values.tolist(), strict=True):
        contest.add(CHALLENGER if challenger else CHAMPION, "" if brier else str(int(label)), value)
        if contest.evidence.num_pairs > judged:
            judged = contest.evidence.num_pairs
            verdict = decide(contest.evidence, num_outcomes=contest.num_outcomes, max_outcomes=10**9)
            if not isinstance(verdict, Continue):
                return type(verdict), contest.num_outcomes
    return Continue, contest.num_outcomes


def main() -> None:
    """Print one line per question."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=100)
    num = parser.parse_args().releases
    print(
        f"{'judged by':<12}{'gain':>6}{'share':>7}{'promoted':>10}{'rolled back':>13}{'none':>6}{'median':>8}{'p90':>8}"
    )
    for brier in (False, True):
        for gain in (0.0, 0.03, -0.03):
            for share in (0.25, 0.5):
                rng = np.random.default_rng(7)
                found = [release(rng, gain, share, brier=brier) for _ in range(num)]
                counts = [sum(kind is verdict for kind, _ in found) for verdict in (Promote, RollBack, Continue)]
                took = [took for kind, took in found if kind is not Continue] or [0]
                line = f"{'Brier' if brier else 'AUC':<12}{gain:>+6.2f}{share:>7.2f}"
                line += f"{counts[0]:>10}{counts[1]:>13}{counts[2]:>6}"
                print(f"{line}{np.median(took):>8.0f}{np.quantile(took, 0.9):>8.0f}", flush=True)


if __name__ == "__main__":
    main()
