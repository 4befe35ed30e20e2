"""Outcomes that come early, late, twice or corrected: what a comparison makes of them, and what it never edits."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from raysaas.records import Arm, Release, Variant
from raysaas.release.blocks import Block, difference
from raysaas.release.contest import Contest
from raysaas.release.judge import Kind, judge, judge_again
from raysaas.release.trial import Trial
from raysaas.release.verdict import Evidence
from raysaas.settings import ReleasePolicy
from raysaas.stores.logs import as_table
from raysaas.stores.matured import joined

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ONE, TWO = (Arm(version=n, uri=f"/b/{n}", digest=str(n)) for n in (1, 2))
CANARY = Release(use_case="shop", sequence=2, champion=ONE, variants=(Variant(name="challenger", arm=TWO, share=0.5),),
                 experiment="2", actor="ana", reason="try", at=NOW)  # fmt: skip
POLICY = ReleasePolicy(stages=[0.5, 1.0], max_score_psi=99.0)
FLIP = {"yes": "no", "no": "yes"}


def trial(*, paired: bool = False) -> Trial:
    made = Trial(id="shop/2", task="binary", labels=["no", "yes"], versions={"champion": 1, "challenger": 2},
                 since=NOW.isoformat(), paired=paired)  # fmt: skip
    if not paired:
        made.enter(2, NOW.isoformat(), {"champion": 0.5, "challenger": 0.5})
    return made


def again(made: Trial) -> Trial:
    """The trial as the next process finds it."""
    saved = json.loads(json.dumps(made.to_json()))
    found = Trial.from_json(saved)
    assert json.loads(json.dumps(found.to_json())) == saved
    return found


def decision(num: int, arm: str, score: float, *, tenant: str = "t", key: str | None = None) -> dict[str, Any]:
    return {"id": f"d{num}", "use_case": "shop", "tenant": tenant, "entity": f"e{num}", "arm": arm, "key": key,
            "version": {"champion": 1, "challenger": 2}[arm], "score": score, "label": "no", "inputs": {},
            "time": (NOW + timedelta(seconds=num)).isoformat()}  # fmt: skip


def outcome(name: dict[str, Any], label: str, observed: float, known: float | None = None) -> dict[str, Any]:
    times = {"observed_at": NOW + timedelta(hours=observed), "known_at": NOW + timedelta(hours=known or observed)}
    return {"decision_id": None, "use_case": "shop", "tenant": "t", **name, "label": label,
            **{key: value.isoformat() for key, value in times.items()}}  # fmt: skip


def held(contest: Contest) -> dict[str, list[float]]:
    """The scores that a contest counts now, by side and kind."""
    found: dict[str, list[float]] = {}
    for values in (*contest.settled, contest.block.values):
        for name, scores in values.items():
            found[name] = sorted([*found.get(name, []), *scores])
    return {name: scores for name, scores in found.items() if scores}


@pytest.mark.parametrize("seed", range(4))
def test_the_corrected_evidence_counts_what_the_log_says(seed: int) -> None:
    """By id or by key, before or after the decision, in any order of time, restarted in between."""
    rng, made = random.Random(seed), trial()
    decisions, outcomes, settled = [], [], []
    for step in range(600):
        if rng.random() < 0.4:
            arm, key = rng.choice(["champion", "challenger"]), rng.choice([None, f"k{rng.randrange(80)}"])
            decisions.append(decision(len(decisions), arm, rng.random(), tenant=rng.choice("tu"), key=key))
            made.decision(decisions[-1], NOW.isoformat())
        elif decisions:
            one = rng.choice(decisions)
            by_id = {"decision_id": one["id"], "tenant": rng.choice("ttuu")}
            name = rng.choice([by_id, {"key": f"k{rng.randrange(80)}", "tenant": rng.choice("tu")}])
            observed = step + rng.choice([0, 500, -rng.randrange(3)])
            outcomes.append(outcome(name, rng.choice(["yes", "yes", "no", "no", "what?"]), observed, step))
            made.outcome(outcomes[-1])
        settled.append(made.contests["challenger"].evidence)
        if rng.random() < 0.05:
            made = again(made)
    rows = joined(as_table(decisions, "decisions"), as_table(outcomes, "outcomes")).to_pylist()
    known = [row for row in rows if row["outcome"] in FLIP]
    expected = {f"{arm}/{kind}": sorted(row["score"] for row in known if (row["arm"], row["outcome"]) == (arm, label))
                for arm in ("champion", "challenger") for kind, label in (("0", "no"), ("1", "yes"))}  # fmt: skip
    contest = made.contests["challenger"]
    assert held(contest) == expected
    said = [difference(values, ("0", "1")) or 0.0 for values in contest.settled]
    assert contest.as_known() == Evidence().add(said)
    assert contest.evidence.num_pairs == len(said) > 3
    assert contest.as_known() != contest.evidence
    assert all(after == before or after.num_pairs == before.num_pairs + 1 for before, after in pairwise(settled))


def test_without_corrections_both_are_the_same() -> None:
    rng, contest = np.random.default_rng(0), Contest(block=Block(kinds=("0", "1")))
    for _ in range(3000):
        contest.add(rng.choice(["champion", "challenger"]), str(rng.integers(0, 2)), float(rng.random()))
    assert contest.as_known() == contest.evidence
    contest.stale = True
    assert contest.as_known() == contest.evidence


def told(made: Trial, num: int, *, wrong: bool, corrected: bool, seed: int = 0) -> Trial:
    """Outcomes of a challenger that is far worse; first ``wrong``, all labels turned round, and then ``corrected``."""
    rng = np.random.default_rng(seed)
    truth = {i: rng.random() < 0.4 for i in range(num)}
    for i, yes in truth.items():
        arm = "champion" if i % 2 else "challenger"
        apart = {"champion": 3.0, "challenger": -3.0}[arm]
        made.decision(decision(i, arm, float(rng.normal() + apart * yes)), NOW.isoformat())
        label = "yes" if yes else "no"
        made.outcome(outcome({"decision_id": f"d{i}"}, FLIP[label] if wrong else label, 1))
    if corrected:
        correct(made, truth)
    return made


def correct(made: Trial, truth: dict[int, bool]) -> None:
    for i, yes in truth.items():
        made.outcome(outcome({"decision_id": f"d{i}"}, "yes" if yes else "no", 2))


def test_a_proof_must_hold_on_the_outcomes_as_corrected_too() -> None:
    assert judge(told(trial(), 600, wrong=True, corrected=False), CANARY, POLICY).kind is Kind.promote
    made = told(trial(), 600, wrong=True, corrected=True)
    contest = made.contests["challenger"]
    assert (contest.evidence.mean() > 0.5, contest.as_known().mean() < -0.5) == (True, True)
    assert judge(made, CANARY, POLICY).kind is Kind.wait
    assert judge(again(made), CANARY, POLICY).kind is Kind.wait
    at_last = judge(made, CANARY, replace(POLICY, max_outcomes=300))
    assert (at_last.kind, "neither" in at_last.reason) == (Kind.roll_back, True)


def test_corrections_after_a_promotion_undo_it() -> None:
    made = again(told(trial(), 600, wrong=True, corrected=False))
    promoted = replace(CANARY, sequence=3, champion=TWO, variants=(), actor="release")
    assert judge_again(made, promoted, POLICY, NOW).kind is Kind.wait
    rng = np.random.default_rng(0)
    correct(made, {i: rng.random() < 0.4 for i in range(600)})
    action = judge_again(made, promoted, POLICY, NOW)
    assert (action.kind, "undo" in action.reason) == (Kind.roll_back, True)


def test_a_shadow_takes_an_outcome_that_came_before_its_decision() -> None:
    made = trial(paired=True)
    for label, observed in (("yes", 2), ("no", 1)):
        made.outcome(outcome({"key": "k"}, label, observed))
    made.decision(decision(1, "champion", 0.25, key="k"), NOW.isoformat())
    made = again(made)
    assert made.contests["challenger"].num_outcomes == 0
    made.shadow({"decision_id": "d1", "tenant": "t", "version": 2, "score": 0.75, "label": "no"})
    assert held(made.contests["challenger"]) == {"champion/1": [0.25], "challenger/1": [0.75]}
    made.outcome(outcome({"key": "k"}, "no", 3))
    assert held(again(made).contests["challenger"]) == {"champion/0": [0.25], "challenger/0": [0.75]}


def test_what_a_trial_remembers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trial.MAX_PENDING", "trial.MAX_COUNTED", "trial.MAX_EARLY", "contest.MAX_SETTLED"):
        monkeypatch.setattr(f"raysaas.release.{name}", 300)
    made, rng, sizes = trial(), np.random.default_rng(0), []
    for i in range(6000):
        arm, score, label = "champion" if i % 2 else "challenger", float(rng.random()), rng.choice(["yes", "no"])
        made.decision(decision(i, arm, score, key=f"k{i}"), NOW.isoformat())
        made.outcome(outcome({"key": f"k{i}"} if i % 3 else {"decision_id": f"d{i}"}, label, 1))
        if i % 1000 == 999:
            sizes.append(len(json.dumps(made.to_json() | {"judged": "", "entities": ""})))
    contest = made.contests["challenger"]
    assert max(sizes[1:]) < 1.5 * min(sizes[1:]), sizes
    assert contest.evidence == contest.as_known()
    assert contest.evidence.num_pairs > 300
    before = contest.as_known()
    made.outcome(outcome({"decision_id": "d3"}, "yes", 2))
    made.outcome(outcome({"decision_id": "d3"}, "no", 3))
    assert contest.as_known() == before, "it was forgotten, and its block is over"
    for label, hour in (("yes", 4), ("no", 5)):
        for i in range(5800, 6000):
            made.outcome(outcome({"decision_id": f"d{i}"}, label, hour))
    assert contest.as_known() != before
    assert contest.as_known().num_pairs == contest.evidence.num_pairs


def test_a_trial_of_an_earlier_release_goes_on() -> None:
    made = told(trial(), 100, wrong=False, corrected=False)
    saved = json.loads(json.dumps(made.to_json()))
    for name in ("counted", "num_keys", "early"):
        del saved[name]
    saved["pending"], saved["keys"] = (
        {"d900/t": ["champion", {"score": 0.5, "label": "no"}, "aa", None]},
        {"ab": "d900/t"},
    )
    contest = saved["contests"]["challenger"]
    saved["contests"] = {"challenger": {name: contest[name] for name in ("block", "evidence", "num_outcomes")}}
    found = Trial.from_json(saved)
    evidence = found.contests["challenger"].evidence
    assert found.contests["challenger"].as_known() == evidence == made.contests["challenger"].evidence
    for i in range(200, 260):
        found.decision(decision(i, "champion" if i % 2 else "challenger", i / 300), NOW.isoformat())
        found.outcome(outcome({"decision_id": f"d{i}"}, "yes" if i % 3 else "no", 1))
    found.outcome(outcome({"decision_id": "d900"}, "yes", 1))
    assert "d900/t" in again(found).counted
    assert found.contests["challenger"].evidence.num_pairs > evidence.num_pairs
