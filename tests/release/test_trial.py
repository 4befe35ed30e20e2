"""What is counted of journal records, and what follows: guard-rails, the split, stages, late outcomes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from raysaas.records import Arm, Release, Variant
from raysaas.release import ratio
from raysaas.release.blocks import Block, Loss, concordance
from raysaas.release.judge import Action, Kind, judge, judge_again
from raysaas.release.seen import Seen
from raysaas.release.trial import Trial
from raysaas.settings import ReleasePolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = (NOW + timedelta(minutes=1)).isoformat()
ONE, TWO, THREE = (Arm(version=n, uri=f"/b/{n}", digest=str(n)) for n in (1, 2, 3))
CANARY = Release(use_case="shop", sequence=2, champion=ONE, variants=(Variant(name="challenger", arm=TWO, share=0.5),),
                 experiment="2", actor="ana", reason="try", at=NOW)  # fmt: skip
POLICY = ReleasePolicy(stages=[0.5, 0.8, 1.0])


def trial(task: str = "binary", labels: tuple[str, ...] = ("no", "yes"), **more: Any) -> Trial:
    versions = more.pop("versions", {"champion": 1, "challenger": 2})
    made = Trial(id="shop/2", task=task, labels=list(labels), versions=versions, since=NOW.isoformat(), **more)
    if not made.paired:
        made.enter(2, NOW.isoformat(), {"champion": 0.5, "challenger": 0.5})
    return made


class Traffic:
    """Records as replicas journal them; every entity is new unless it is named."""

    def __init__(self, made: Trial) -> None:
        self.trial, self.num = made, 0

    def decide(self, arm: str, score: float = 0.5, label: str | None = "no", entity: str | None = None,
               **inputs: Any) -> str:  # fmt: skip
        self.num += 1
        record = {"id": f"d{self.num}", "tenant": "acme", "entity": entity or f"e{self.num}", "arm": arm,
                  "version": self.trial.versions[arm], "score": score, "label": label, "time": LATER,
                  "inputs": inputs}  # fmt: skip
        self.trial.decision(record, LATER)
        return record["id"]

    def observe(self, key: str, label: str) -> None:
        self.trial.outcome({"decision_id": key, "tenant": "acme", "label": label})

    def fill(self, good: dict[str, float], num: int, seed: int = 0) -> None:
        """Outcomes in turn: ``good`` is how far scores of positives are above the others, by arm."""
        rng = np.random.default_rng(seed)
        for i in range(num):
            for arm, apart in good.items():
                truth = rng.random() < 0.4
                key = self.decide(arm, float(rng.normal() + apart * truth), entity=f"{arm}{seed}-{i}")
                self.observe(key, "yes" if truth else "no")


def test_auc_is_the_share_of_pairs_in_order_with_ties_as_half() -> None:
    rng = np.random.default_rng(0)
    negatives, positives = rng.integers(0, 5, 13).tolist(), rng.integers(2, 7, 7).tolist()
    pairs = [(p > n) + 0.5 * (p == n) for n in negatives for p in positives]
    assert concordance(negatives, positives) == pytest.approx(np.mean(pairs))


def test_a_block_waits_for_enough_of_each_kind_and_uses_an_outcome_once() -> None:
    block = Block(kinds=("",))
    for loss in (0.2, 0.4, 0.6, 0.8):
        block.add("champion", "", loss)
    assert block.close() is None
    for _ in range(3):
        block.add("challenger", "", 0.1)
    assert block.close() == pytest.approx(0.5 - 0.1)
    assert block.close() is None
    assert block.values == {}


def test_squared_errors_are_measured_in_the_champions_first_ones() -> None:
    loss = Loss()
    predicted = {"score": 3.0, "label": None}
    assert loss.of("challenger", predicted, "1e9") is None, "the challenger has no say in the scale"
    assert [loss.of("champion", predicted, "5") for _ in range(50)] == [None] * 50
    assert loss.of("challenger", predicted, "3") == 0.0
    assert loss.of("challenger", predicted, "5") == pytest.approx(1 / 9)
    assert loss.of("challenger", predicted, "1e9") == 1.0
    assert Loss().of("champion", {"score": 0.9, "label": "a"}, "b") == 1.0


def test_a_worse_challenger_is_rolled_back_and_a_better_one_promoted() -> None:
    for arms, kind in (({"champion": 3.0, "challenger": 0.5}, Kind.roll_back),
                       ({"champion": 0.5, "challenger": 3.0}, Kind.promote)):  # fmt: skip
        made = trial()
        Traffic(made).fill(arms, 300)
        policy = replace(POLICY, max_score_psi=99.0)
        action = judge(made, CANARY, policy)
        assert (action.kind, "alpha 0.05" in action.reason) == (kind, True)
        assert judge(made, replace(CANARY, frozen=True), policy).kind is Kind.wait
        assert judge(Trial.from_json(made.to_json()), CANARY, policy) == action


def test_a_canary_grows_when_nothing_speaks_against_it_and_the_last_step_needs_proof() -> None:
    made = trial()
    traffic = Traffic(made)
    for _ in range(199):
        traffic.decide("champion"), traffic.decide("challenger")
    assert judge(made, CANARY, POLICY).kind is Kind.wait
    traffic.decide("challenger")
    action = judge(made, CANARY, POLICY)
    assert (action.kind, action.version, action.share) == (Kind.advance, 2, 0.8)
    last = replace(CANARY, sequence=3, variants=(Variant(name="challenger", arm=TWO, share=0.8),))
    made.enter(3, LATER, {"champion": 0.2, "challenger": 0.8})
    assert made.num == made.split == {}
    for i in range(1000):
        traffic.decide("challenger" if i % 5 else "champion")
    assert judge(made, last, POLICY).kind is Kind.wait


def test_a_score_that_shifted_breaks_a_guard_rail_without_outcomes() -> None:
    made = trial()
    rng = np.random.default_rng(0)
    traffic = Traffic(made)
    for score in rng.random(450):
        traffic.decide("champion", float(score))
        traffic.decide("challenger", 0.0)
    action = judge(made, CANARY, POLICY)
    assert (action.kind, "PSI" in action.reason) == (Kind.roll_back, True)


@pytest.mark.parametrize(("inputs", "kind"), [({"a": None}, Kind.roll_back), ({"a": float("nan")}, Kind.roll_back),
                                              ({"b": None}, Kind.roll_back), ({"a": 1.0}, Kind.advance)])  # fmt: skip
def test_values_that_miss_break_a_guard_rail(inputs: dict[str, Any], kind: Kind) -> None:
    made = trial()
    traffic = Traffic(made)
    for _ in range(250):
        traffic.decide("champion", a=1.0)
        traffic.decide("challenger", **inputs)
    action = judge(made, CANARY, POLICY)
    assert action.kind is kind
    assert ("missing" in action.reason) is (kind is Kind.roll_back)


def test_of_a_feature_that_both_read_it_is_the_difference_that_counts() -> None:
    for champions, kind in ((0, Kind.roll_back), (2, Kind.advance)):
        made = trial()
        traffic = Traffic(made)
        for i in range(250):
            traffic.decide("champion", a=None if i % 4 < champions else 1.0)
            traffic.decide("challenger", a=None if i % 4 < 2 else 1.0)
        assert judge(made, CANARY, POLICY).kind is kind


@pytest.mark.parametrize(("errors", "slow_ms", "word"), [(20, 1.0, "errors"), (0, 90.0, "p99"), (0, 1.3, "")])
def test_errors_and_latency_break_guard_rails(errors: int, slow_ms: float, word: str) -> None:
    made = trial()
    for arm, version, wrong, ms in (("champion", 1, 0, 1.0), ("challenger", 2, errors, slow_ms)):
        record = {"time": LATER, "arm": arm, "version": version, "num": 1000, "errors": wrong}
        made.stats({**record, "latency": {"0.5": 950, f"{ms}": 50}})
    action = judge(made, CANARY, POLICY)
    assert (action.kind is Kind.roll_back) is bool(word)
    assert word in action.reason


def test_a_broken_split_ends_the_experiment_and_chatty_entities_do_not() -> None:
    made = trial()
    traffic = Traffic(made)
    for i in range(400):
        traffic.decide("champion"), traffic.decide("challenger")
        traffic.decide("challenger", entity=f"chatty{i % 3}")
    assert judge(made, CANARY, POLICY).kind is Kind.advance
    for _ in range(300):
        traffic.decide("champion")
    action = judge(made, CANARY, POLICY)
    assert (action.kind, "sample-ratio" in action.reason) == (Kind.roll_back, True)


def test_right_splits_are_hardly_ever_called_broken() -> None:
    rng, shares = np.random.default_rng(0), {"champion": 0.95, "challenger": 0.05}
    broken = 0
    for _ in range(500):
        hits = np.cumsum(rng.random(10_000) < 0.05)
        looks = [{"challenger": int(hits[n - 1]), "champion": int(n - hits[n - 1])} for n in range(200, 10_001, 400)]
        broken += any(ratio.broken(counts, shares) for counts in looks)
    assert broken <= 3


def test_the_first_outcome_of_an_entity_counts_once_per_arm_also_by_the_callers_key() -> None:
    made = trial()
    traffic = Traffic(made)
    keys = [traffic.decide("challenger", entity="ann") for _ in range(3)]
    for key in [*keys, keys[0], "unknown"]:
        traffic.observe(key, "yes")
    made.decision({"id": "k1", "tenant": "acme", "entity": "bob", "arm": "challenger", "version": 2, "score": 0.1,
                   "label": "no", "time": LATER, "inputs": {}, "key": "order-7"}, LATER)  # fmt: skip
    for tenant in ("other", "acme"):
        made.outcome({"decision_id": None, "key": "order-7", "tenant": tenant, "label": "no"})
    assert made.contests["challenger"].num_outcomes == 2
    traffic.observe(traffic.decide("challenger"), "what?")
    assert made.contests["challenger"].num_outcomes == 2, "a label that the model does not know says nothing"


def test_a_shadow_is_judged_on_the_same_decisions() -> None:
    made = trial(paired=True)
    rng = np.random.default_rng(0)
    traffic = Traffic(made)
    for i in range(400):
        truth = rng.random() < 0.4
        noise = float(rng.normal())
        key = traffic.decide("champion", noise + 1.0 * truth)
        if i % 4:
            made.shadow(
                {"decision_id": key, "tenant": "acme", "version": 2, "score": noise + 2.0 * truth, "label": "no"}
            )
        traffic.observe(key, "yes" if truth else "no")
    shadowed = replace(CANARY, variants=(), shadow=TWO)
    assert made.contests["challenger"].num_outcomes == 300, "those that the shadow had time for"
    action = judge(made, shadowed, replace(POLICY, max_score_psi=99.0))
    assert (action.kind, action.version) == (Kind.promote, 2)


def test_of_several_variants_the_first_that_proves_better_is_promoted() -> None:
    made = trial(versions={"champion": 1, "b": 2, "c": 3})
    made.enter(4, NOW.isoformat(), {"champion": 0.5, "b": 0.25, "c": 0.25})
    named = (Variant(name="b", arm=TWO, share=0.25), Variant(name="c", arm=THREE, share=0.25))
    release, policy = replace(CANARY, sequence=4, variants=named), replace(POLICY, max_score_psi=99.0)
    traffic = Traffic(made)
    traffic.fill({"champion": 1.5, "b": 0.0}, 200)
    made.split = {}
    assert judge(made, release, policy).kind is Kind.wait, "c may still prove better"
    traffic.fill({"champion": 1.5, "c": 4.0}, 400, seed=1)
    made.split = {}
    action = judge(made, release, policy)
    assert (action.kind, action.version) == (Kind.promote, 3)


def test_late_outcomes_undo_a_promotion_within_its_days() -> None:
    made = trial()
    traffic = Traffic(made)
    promoted = replace(CANARY, sequence=3, champion=TWO, variants=(), actor="release")
    traffic.fill({"champion": 1.0, "challenger": 1.0}, 20)
    assert judge_again(made, promoted, POLICY, NOW).kind is Kind.wait
    traffic.fill({"champion": 3.0, "challenger": 0.0}, 300, seed=1)
    action = judge_again(made, promoted, POLICY, NOW + timedelta(days=6))
    assert (action.kind, "undo" in action.reason) == (Kind.roll_back, True)
    assert judge_again(made, promoted, POLICY, NOW + timedelta(days=8)) == Action(
        kind=Kind.wait, reason="The time to undo the promotion is over."
    )


def test_records_of_before_or_of_other_versions_are_no_part_of_it() -> None:
    made = trial()
    record = {"id": "x", "tenant": "acme", "entity": "ann", "arm": "challenger", "version": 2, "score": 0.1,
              "label": "no", "time": LATER, "inputs": {}}  # fmt: skip
    for change in ({"version": 9}, {"arm": "tenant"}, {"time": (NOW - timedelta(seconds=1)).isoformat()}):
        made.decision({**record, **change}, LATER)
    assert (made.num, made.pending) == ({}, {})
    made.decision(record, (NOW + timedelta(hours=1)).isoformat())
    assert (made.num, made.split) == ({"challenger": 1}, {}), "replicas may still have had the split of before"


def test_what_was_seen_survives_text_and_hardly_collides() -> None:
    seen = Seen()
    fresh = sum(seen.first("acme", f"e{i}") for i in range(20_000))
    assert fresh > 19_500
    again = Seen(seen.to_text())
    assert not any(again.first("acme", f"e{i}") for i in range(20_000))
    assert sum(again.first("umbrella", f"e{i}") for i in range(1000)) > 900
