"""The referee on a real ledger, real journals and real bundles; carrying out is a callable that does it, or dies."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.serving.conftest import make_bundle

from raysaas.errors import ConfigError
from raysaas.records import Arm, Release
from raysaas.release import rollout
from raysaas.release.judge import ACTOR, Action, Kind
from raysaas.release.referee import Referee
from raysaas.settings import ReleasePolicy, Unproven
from raysaas.stores.journal import Journal
from raysaas.stores.ledger import Ledger

START = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = ReleasePolicy(stages=[0.2, 0.5, 1.0], max_score_psi=99.0)


@dataclass
class Shop:
    """A use case with a clock, traffic, and a releaser that acts as the real hook does, without Serve."""

    root: Path
    ledger: Ledger
    arms: list[Arm]
    now: datetime = START
    acted: list[Action] = field(default_factory=list)
    applied: int = 0
    num: int = 0
    die: bool = False

    def referee(self, policy: ReleasePolicy = POLICY) -> Referee:
        return Referee("shop", str(self.root / "journal"), self.ledger, policy, self.act, self.apply,
                       clock=lambda: self.now)  # fmt: skip

    def act(self, action: Action, sequence: int) -> None:
        if self.die:
            raise RuntimeError("killed")
        self.acted.append(action)
        known = self.ledger.release("shop")
        assert known is not None
        assert known.sequence == sequence
        who = {"actor": ACTOR, "reason": action.reason, "now": self.now}
        if action.kind is Kind.advance:
            arm = known.variants[0].arm
            rollout.start_canary(self.ledger, "shop", arm, action.share or 0, self.done, **who)
        elif action.kind is Kind.promote:
            arm = next(arm for arm in known.arms() if arm.version == action.version)
            rollout.promote(self.ledger, "shop", arm, self.done, **who)
        else:
            rollout.rollback(self.ledger, "shop", self.done, **who)

    def done(self, release: Release) -> None:
        self.ledger.set_state("applied/shop", {"sequence": release.sequence})

    def apply(self) -> None:
        self.applied += 1

    def journal(self, kind: str) -> Journal:
        return Journal(self.root / "journal", "shop", kind)

    def traffic(self, num: int, apart: dict[str, float], *, share: float = 0.5, seed: int = 0) -> list[dict[str, str]]:
        """Decisions as replicas journal them; their outcomes are returned. ``apart`` says how good each arm is."""
        rng = np.random.default_rng(seed)
        decisions, outcomes = [], []
        self.now += timedelta(seconds=10)
        for _ in range(num):
            self.num += 1
            arm = "challenger" if rng.random() < share else "champion"
            positive = rng.random() < 0.4
            decisions.append({"id": f"d{self.num}", "tenant": "acme", "entity": f"e{self.num}", "arm": arm,
                              "version": {"champion": 1, "challenger": 2}[arm], "label": "No",
                              "score": float(rng.normal() + apart[arm] * positive), "inputs": {"amount": 1.0},
                              "time": self.now.isoformat()})  # fmt: skip
            outcomes.append({"decision_id": f"d{self.num}", "tenant": "acme", "label": "Yes" if positive else "No"})
        self.journal("decisions").append(decisions)
        return outcomes

    def observe(self, outcomes: list[dict[str, str]]) -> None:
        self.journal("outcomes").append(outcomes)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    arms = [Arm(version=n, **make_bundle(tmp_path / str(n), seed=n)) for n in (1, 2)]
    made = Shop(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"), arms)
    who = {"actor": "ana", "reason": "try", "now": START}
    rollout.promote(made.ledger, "shop", arms[0], made.done, **who)
    rollout.start_canary(made.ledger, "shop", arms[1], 0.2, made.done, **who)
    return made


def test_a_canary_grows_by_itself_and_proof_promotes_it(shop: Shop) -> None:
    referee = shop.referee()
    assert referee.poll().kind is Kind.wait
    shop.traffic(1500, {"champion": 1.0, "challenger": 1.0}, share=0.2)
    assert referee.poll() == shop.acted[0]
    assert (shop.acted[0].kind, shop.acted[0].share) == (Kind.advance, 0.5)
    grown = shop.ledger.release("shop")
    assert grown is not None
    assert (grown.variants[0].share, grown.experiment, grown.actor) == (0.5, "2", "release")
    shop.observe(shop.traffic(1500, {"champion": 0.5, "challenger": 3.0}))
    assert referee.poll().kind is Kind.promote
    promoted = shop.ledger.release("shop")
    assert promoted is not None
    assert (promoted.champion, promoted.variants, promoted.actor) == (shop.arms[1], (), "release")
    assert (shop.ledger.get_state("release/shop") or {})["status"]["kind"] == "promote"
    assert referee.poll().kind is Kind.wait


@pytest.mark.parametrize(("actor", "undone"), [(ACTOR, True), ("ana", False)])
def test_outcomes_that_come_late_undo_the_promotion_but_not_a_persons(shop: Shop, actor: str, undone: bool) -> None:
    referee = shop.referee(ReleasePolicy(stages=[0.2, 1.0], max_score_psi=99.0))
    late = shop.traffic(1500, {"champion": 3.0, "challenger": 0.5}, share=0.2)
    assert referee.poll().kind is Kind.wait
    rollout.promote(shop.ledger, "shop", shop.arms[1], shop.done, actor=actor, reason="early", now=shop.now)
    assert referee.poll().kind is Kind.wait
    shop.observe(late)
    assert (referee.poll().kind is Kind.roll_back) is undone
    release = shop.ledger.release("shop")
    assert release is not None
    assert release.champion == shop.arms[0 if undone else 1]
    assert ("undo" in release.reason) is undone


def test_corrected_outcomes_undo_the_promotion_that_the_wrong_ones_proved(shop: Shop) -> None:
    referee = shop.referee(ReleasePolicy(stages=[0.2, 1.0], max_score_psi=99.0))
    right = shop.traffic(1500, {"champion": 3.0, "challenger": -3.0}, share=0.2)
    wrong = [{**one, "label": {"Yes": "No", "No": "Yes"}[one["label"]]} for one in right]
    shop.observe([{**one, "observed_at": shop.now.isoformat()} for one in wrong])
    assert referee.poll().kind is Kind.promote
    referee = shop.referee(ReleasePolicy(stages=[0.2, 1.0], max_score_psi=99.0))
    assert referee.poll().kind is Kind.wait
    shop.now += timedelta(days=1)
    shop.observe([{**one, "observed_at": shop.now.isoformat()} for one in right])
    assert referee.poll().kind is Kind.roll_back
    release = shop.ledger.release("shop")
    assert release is not None
    assert (release.champion, "undo" in release.reason) == (shop.arms[0], True)


def test_an_outcome_by_key_that_came_before_the_comparison_is_not_lost_to_it(shop: Shop) -> None:
    referee = shop.referee()
    shop.observe([{"decision_id": None, "key": "k", "tenant": "acme", "label": "Yes"}])  # type: ignore[dict-item]
    referee.poll()
    rollout.start_canary(shop.ledger, "shop", shop.arms[0], 0.2, shop.done, actor="ana", reason="x", now=shop.now)
    shop.now += timedelta(seconds=10)
    made = {"id": "d1", "tenant": "acme", "entity": "e1", "arm": "champion", "version": 1, "label": "No", "key": "k",
            "score": 0.5, "inputs": {}, "time": shop.now.isoformat()}  # fmt: skip
    shop.journal("decisions").append([made])
    referee.poll()
    assert referee.trial is not None
    assert list(referee.trial.counted) == ["d1/acme"]


def test_killed_anywhere_it_goes_on_with_what_it_knew(shop: Shop) -> None:
    whole, halves = shop.referee(), shop.referee()
    for part in range(3):
        shop.observe(shop.traffic(200, {"champion": 1.0, "challenger": 1.0}, share=0.2, seed=part))
        for referee in (whole, halves):
            referee.poll()
        halves.save()
        halves = shop.referee()
    assert whole.trial is not None
    assert halves.trial is not None
    assert halves.trial.contests == whole.trial.contests
    assert whole.trial.contests["challenger"].num_outcomes > 80
    assert halves.trial.to_json() == whole.trial.to_json()


def test_killed_before_it_acted_it_acts_once_more(shop: Shop) -> None:
    shop.die = True
    first = shop.referee()
    shop.observe(shop.traffic(1500, {"champion": 3.0, "challenger": 0.5}, share=0.2))
    with pytest.raises(RuntimeError, match="killed"):
        first.poll()
    shop.die = False
    action = shop.referee().poll()
    assert (action.kind, shop.acted) == (Kind.roll_back, [action])
    release = shop.ledger.release("shop")
    assert release is not None
    assert (release.champion, release.variants) == (shop.arms[0], ())


def test_a_release_that_serve_never_got_is_brought_to_it_with_patience(shop: Shop) -> None:
    def dies(_: Release) -> None:
        raise KeyboardInterrupt

    referee = shop.referee()
    with pytest.raises(KeyboardInterrupt):
        rollout.promote(shop.ledger, "shop", shop.arms[1], dies, actor="ana", reason="killed", now=shop.now)
    asked = []
    for _ in range(8):
        referee.poll()
        asked.append(shop.applied)
        shop.now += timedelta(seconds=5)
    assert asked == [0, 0, 0, 1, 1, 1, 2, 2]
    recorded = shop.ledger.release("shop")
    assert recorded is not None
    shop.done(recorded)
    shop.now += timedelta(minutes=1)
    referee.poll()
    assert shop.applied == 2


def test_counts_of_replicas_are_removed_once_they_are_part_of_what_is_saved(shop: Shop) -> None:
    """A long canary keeps few segments on disk, whoever dies, and a decided one keeps none."""
    folder, num, most, referee = shop.root / "journal" / "shop", 0, 0, shop.referee()
    replica, dead = shop.journal("stats"), shop.journal("stats")
    for second in range(60):
        line = {"time": (shop.now + timedelta(seconds=1)).isoformat(), "arm": "challenger", "version": 2, "num": 1,
                "errors": 0, "latency": {"1": 1}}  # fmt: skip
        replica.append([line])
        replica.rotate()
        dead.append([line])
        if second % 5 == 0:
            dead._abandon()  # as if it was killed: its lock is gone, and the last line may be half
            with next(folder.glob(f"{dead._stem}-*.open")).open("ab") as file:
                file.write(b'{"time": "20')
        num += 2
        shop.now += timedelta(seconds=4)
        referee = shop.referee() if second % 7 == 0 else referee
        referee.poll()
        most = max(most, len(list(folder.glob("stats-*"))))
    shop.now += timedelta(seconds=11)
    replica.append([line])
    assert most < 20, "about those of the time between two saves"
    referee.poll()
    assert referee.trial is not None
    assert referee.trial.tallies["challenger"].answered == num + 1
    replica.append([line])
    replica.close()
    dead._abandon()
    rollout.rollback(shop.ledger, "shop", shop.done, actor="ana", reason="no", now=shop.now)
    referee.poll()
    strays = list(folder.glob("stats-*"))
    assert 0 < len(strays) < 20
    for path in strays:
        os.utime(path, (0, 0))
    shop.now += timedelta(seconds=121)
    referee.poll()
    assert list(folder.glob("stats-*")) == []


@pytest.mark.parametrize("seen", [True, False])
def test_a_persons_rollback_ends_it_and_the_next_canary_starts_without_evidence(shop: Shop, seen: bool) -> None:
    referee = shop.referee()
    shop.observe(shop.traffic(300, {"champion": 1.0, "challenger": 1.0}, share=0.2))
    referee.poll()
    who = {"actor": "ana", "reason": "no", "now": shop.now}
    rollout.rollback(shop.ledger, "shop", shop.done, **who)
    if seen:
        assert referee.poll().reason == "Nothing is compared."
    rollout.start_canary(shop.ledger, "shop", shop.arms[1], 0.2, shop.done, **who)
    referee.poll()
    assert referee.trial is not None
    assert referee.trial.contests["challenger"].num_outcomes == 0


def test_settings_from_json_are_the_same_settings() -> None:
    assert ReleasePolicy(unproven="promote").unproven is Unproven.promote  # type: ignore[arg-type]


@pytest.mark.parametrize("stages", [[], [0.1], [0.5, 0.1, 1.0], [0.0, 1.0], [0.5, 1.5]])
def test_stages_rise_to_all_of_the_traffic(stages: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"release\.stages"):
        ReleasePolicy(stages=stages)


def test_the_actor_imports_nothing_heavy() -> None:
    heavy = {"feast", "mlflow", "evidently", "pandas", "sklearn", "torch", "onnxruntime", "lightgbm", "hydra"}
    code = f"import sys, raysaas.release.actor as m; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
