"""The sequential test on simulated releases, looked at after every outcome."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.release.verdict import Continue, Evidence, GuardRail, Promote, RollBack, decide
from raysaas.settings import Unproven

DIFFERENCES = st.lists(st.floats(-1, 1), max_size=80)


def first_verdict(differences, **options):
    """Look after every single pair, as an impatient owner would."""
    evidence = Evidence()
    for difference in differences:
        evidence = evidence.add([difference])
        verdict = decide(evidence, max_outcomes=10**9, **options)
        if not isinstance(verdict, Continue):
            return verdict, evidence.num_pairs
    return verdict, evidence.num_pairs


def brier_differences(rng, num, noise, bias=0.0):
    """Two models of the same truth that err alike: paired squared errors, champion minus challenger."""
    truth = rng.beta(1, 3, num)
    outcome = rng.random(num) < truth
    champion = np.clip(truth + rng.normal(bias, noise, num), 0, 1)
    challenger = np.clip(truth + rng.normal(0, noise, num), 0, 1)
    return (champion - outcome) ** 2 - (challenger - outcome) ** 2


def test_equal_versions_get_a_verdict_in_at_most_five_percent_of_releases():
    rng = np.random.default_rng(0)
    verdicts = [first_verdict(brier_differences(rng, 1500, 0.1))[0] for _ in range(300)]
    false = sum(not isinstance(verdict, Continue) for verdict in verdicts)
    assert false <= 15, f"{false} of 300 A/A releases got a verdict"


def test_skewed_noise_does_not_fool_it():
    rng = np.random.default_rng(1)
    draws = (np.where(rng.random(1500) < 0.02, 0.98, -0.02) for _ in range(300))
    assert sum(not isinstance(first_verdict(draw)[0], Continue) for draw in draws) <= 15


@pytest.mark.parametrize(("sign", "expected"), [(1, Promote), (-1, RollBack)])
def test_a_real_difference_is_found(sign, expected):
    rng = np.random.default_rng(2)
    found = [first_verdict(sign * brier_differences(rng, 6000, 0.05, bias=0.2)) for _ in range(40)]
    assert all(isinstance(verdict, expected) for verdict, _ in found)
    assert np.median([pairs for _, pairs in found]) < 1500


@given(differences=DIFFERENCES, cut=st.integers(0, 80))
def test_evidence_is_a_fold_and_survives_json(differences, cut):
    whole = Evidence().add(differences)
    assert Evidence(**Evidence().add(differences[:cut]).to_json()).add(differences[cut:]) == whole


@given(differences=DIFFERENCES)
def test_sides_are_mirror_images_and_wealth_stays_positive(differences):
    one, other = Evidence().add(differences), Evidence().add([-x for x in differences])
    assert one.log_better == pytest.approx(other.log_worse)
    assert math.isfinite(one.log_better)
    assert one.peak_better >= max(one.log_better, 0)


@pytest.mark.parametrize("bad", [1.5, -1.01, float("nan"), float("inf")])
def test_losses_out_of_scale_are_refused(bad):
    with pytest.raises(InputError, match="-1 to 1"):
        Evidence().add([bad])


@pytest.mark.parametrize("value", [0.06, float("nan"), float("inf")])
def test_a_broken_guard_rail_rolls_back_whatever_the_evidence(value):
    good = Evidence().add([0.5] * 200)
    rail = GuardRail(name="error rate", value=value, limit=0.05, num_seen=100)
    assert isinstance(decide(good), Promote)
    verdict = decide(good, [rail])
    assert isinstance(verdict, RollBack)
    assert "error rate" in verdict.reason


def test_a_guard_rail_waits_until_enough_was_seen():
    rail = GuardRail(name="p99", value=9, limit=1, num_seen=99)
    assert isinstance(decide(Evidence(), [rail]), Continue)


def test_the_bar_leaves_half_of_alpha_to_each_side():
    for alpha in (0.05, 0.01):
        for better, worse, kind in ((True, False, Promote), (False, True, RollBack)):
            for off, found in ((-1e-9, Continue), (1e-9, kind)):
                bar = math.log(2 / alpha) + off
                evidence = Evidence(num_pairs=9, total=1.0 if better else -1.0, peak_better=bar * better,
                                    peak_worse=bar * worse)  # fmt: skip
                assert isinstance(decide(evidence, alpha=alpha), found)


@pytest.mark.parametrize(("unproven", "kind"), [(Unproven.roll_back, RollBack), (Unproven.promote, Promote)])
def test_without_proof_it_ends_as_the_settings_say(unproven, kind):
    evidence = Evidence().add([0.1, -0.1] * 30)
    assert isinstance(decide(evidence, max_outcomes=61, unproven=unproven), Continue)
    verdict = decide(evidence, max_outcomes=60, unproven=unproven)
    assert isinstance(verdict, kind)
    assert "neither better nor worse in 60" in verdict.reason
