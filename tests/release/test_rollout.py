"""Roll-outs on the real ledger; Serve is a callable that records what it was told, or dies."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysaas.errors import CorruptBundle, InputError, NotFound, Unavailable
from raysaas.records import Arm, Release, Variant
from raysaas.release import rollout, steps
from raysaas.stores.ledger import Ledger

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WHO = {"actor": "ana", "reason": "because", "now": NOW}


def arm(version: int) -> Arm:
    return Arm(version=version, uri=f"/bundles/{version}", digest=f"{version:064d}")


class Serve:
    """What answers: the last release applied. ``refuse`` versions raise, as a corrupt bundle does."""

    def __init__(self) -> None:
        self.applied: list[Release] = []
        self.refuse: dict[int, Exception] = {}

    def __call__(self, release: Release) -> None:
        for found in release.arms():
            if found.version in self.refuse:
                raise self.refuse[found.version]
        self.applied.append(release)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


@pytest.fixture
def serve() -> Serve:
    return Serve()


def test_first_promotion_starts_at_one_and_is_recorded_before_it_is_applied(ledger: Ledger) -> None:
    seen = []
    release = rollout.promote(ledger, "shop", arm(1), lambda _: seen.append(ledger.release("shop")), **WHO)
    assert release.sequence == 1
    assert seen == [release]


def test_canary_shadow_promote_and_rollback_walk_the_line(ledger: Ledger, serve: Serve) -> None:
    for version in (1, 2):
        rollout.promote(ledger, "shop", arm(version), serve, **WHO)
    canary = rollout.start_canary(ledger, "shop", arm(3), 0.1, serve, **WHO)
    assert (canary.champion, canary.variants) == (arm(2), (Variant(name="challenger", arm=arm(3), share=0.1),))
    assert rollout.rollback(ledger, "shop", serve, **WHO).champion == arm(2)
    shadow = rollout.start_shadow(ledger, "shop", arm(3), serve, **WHO)
    assert (shadow.champion, shadow.variants, shadow.shadow) == (arm(2), (), arm(3))
    promoted = rollout.promote(ledger, "shop", arm(3), serve, **WHO)
    assert (promoted.champion, promoted.variants, promoted.shadow) == (arm(3), (), None)
    assert [rollout.rollback(ledger, "shop", serve, **WHO).champion for _ in range(2)] == [arm(2), arm(1)]
    with pytest.raises(NotFound, match="no earlier champion"):
        rollout.rollback(ledger, "shop", serve, **WHO)
    sequences = [release.sequence for release in reversed(ledger.releases("shop"))]
    assert sequences == list(range(1, 9))
    assert serve.applied[-1] == ledger.release("shop")


def test_promoting_the_champion_again_records_nothing(ledger: Ledger, serve: Serve) -> None:
    first = rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    assert rollout.promote(ledger, "shop", arm(1), serve, **WHO) == first
    assert len(ledger.releases("shop")) == 1
    assert len(serve.applied) == 2


def test_crash_between_record_and_apply_is_reconciled(ledger: Ledger, serve: Serve) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    serve.refuse[2] = Unavailable("Serve does not answer.")
    with pytest.raises(Unavailable):
        rollout.promote(ledger, "shop", arm(2), serve, **WHO)
    assert serve.applied[-1].champion == arm(1)
    serve.refuse.clear()
    assert rollout.reconcile(ledger, "shop", serve, now=NOW) == ledger.release("shop")
    assert serve.applied[-1].champion == arm(2)


def test_a_refused_version_is_taken_back_also_when_its_author_died(ledger: Ledger, serve: Serve) -> None:
    def dies(_: Release) -> None:
        raise KeyboardInterrupt

    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    with pytest.raises(KeyboardInterrupt):
        rollout.promote(ledger, "shop", arm(2), dies, **WHO)
    serve.refuse[2] = CorruptBundle("weights.safetensors does not match.")
    with pytest.raises(CorruptBundle):
        rollout.reconcile(ledger, "shop", serve, now=NOW)
    current = ledger.release("shop")
    assert current is not None
    assert (current.sequence, current.champion, serve.applied[-1]) == (3, arm(1), current)
    assert "Release 2 was refused" in current.reason


def test_refused_version_is_taken_back(ledger: Ledger, serve: Serve) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    serve.refuse[2] = CorruptBundle("weights.safetensors does not match.")
    with pytest.raises(CorruptBundle):
        rollout.promote(ledger, "shop", arm(2), serve, **WHO)
    current = ledger.release("shop")
    assert current is not None
    assert (current.sequence, current.champion) == (3, arm(1))
    assert "weights.safetensors" in current.reason
    assert serve.applied[-1] == current
    with pytest.raises(NotFound):
        rollout.rollback(ledger, "shop", serve, **WHO)


def test_refused_canary_keeps_the_champion_answering(ledger: Ledger, serve: Serve) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    serve.refuse[2] = CorruptBundle("no")
    with pytest.raises(CorruptBundle):
        rollout.start_canary(ledger, "shop", arm(2), 0.5, serve, **WHO)
    current = ledger.release("shop")
    assert current is not None
    assert (current.champion, current.variants) == (arm(1), ())


def test_two_releasers_at_once_one_is_told_to_try_again(ledger: Ledger, serve: Serve) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    late = steps.promote(ledger.release("shop"), "shop", arm(9), steps.By(actor="bob", reason="raced", at=NOW))
    rollout.promote(ledger, "shop", arm(2), serve, **WHO)
    with pytest.raises(Unavailable):
        ledger.set_release(late)
    assert serve.applied[-1].champion == arm(2)


def test_an_automatic_release_gives_way_to_one_made_since_its_work_began(ledger: Ledger, serve: Serve) -> None:
    for version in (1, 2):
        rollout.promote(ledger, "shop", arm(version), serve, **WHO)
    back = rollout.rollback(ledger, "shop", serve, **WHO)
    robot = {**WHO, "actor": "retrain"}
    assert rollout.promote(ledger, "shop", arm(3), serve, **robot, since=2) == back
    assert (ledger.release("shop"), serve.applied[-1]) == (back, back)
    made = rollout.promote(ledger, "shop", arm(3), serve, **robot, since=back.sequence)
    assert (made.champion, made.actor) == (arm(3), "retrain")
    assert rollout.promote(ledger, "shop", arm(3), serve, **robot, since=1) == made, "it answers already"
    assert rollout.promote(ledger, "new", arm(1), serve, **robot, since=0).sequence == 1


def test_a_roll_back_between_look_and_record_holds_too(ledger: Ledger, serve: Serve) -> None:
    for version in (1, 2):
        rollout.promote(ledger, "shop", arm(version), serve, **WHO)
    record = ledger.set_release

    def raced(release: Release) -> None:
        ledger.set_release = record  # type: ignore[method-assign]
        rollout.rollback(ledger, "shop", serve, **WHO)
        record(release)

    ledger.set_release = raced  # type: ignore[method-assign]
    kept = rollout.promote(ledger, "shop", arm(3), serve, **WHO, since=2)
    assert (kept.champion, kept.sequence) == (arm(1), 3)
    assert serve.applied[-1] == ledger.release("shop") == kept


def test_an_automatic_release_that_serve_cannot_take_yet_still_fails(ledger: Ledger, serve: Serve) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    serve.refuse[2] = Unavailable("Serve does not answer.")
    with pytest.raises(Unavailable):
        rollout.promote(ledger, "shop", arm(2), serve, **WHO, since=1)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_bad_shares_are_refused(ledger: Ledger, serve: Serve, share: float) -> None:
    rollout.promote(ledger, "shop", arm(1), serve, **WHO)
    with pytest.raises(InputError, match="share"):
        rollout.start_canary(ledger, "shop", arm(2), share, serve, **WHO)


def test_nothing_released_yet(ledger: Ledger, serve: Serve) -> None:
    assert rollout.reconcile(ledger, "shop", serve, now=NOW) is None
    with pytest.raises(NotFound, match="no release yet"):
        rollout.rollback(ledger, "shop", serve, **WHO)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(steps=st.lists(st.integers(0, 4), max_size=12))
def test_rollbacks_undo_promotions_like_a_stack(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    """0 rolls back, n promotes version n; fresh versions so that promoting an older one is no roll-back."""
    ledger, serve = Ledger(f"sqlite:///{tmp_path_factory.mktemp('stack')}/ledger.db"), Serve()
    stack: list[Arm] = []
    for number, step in enumerate(steps):
        if step:
            stack.append(arm(100 + number))
            rollout.promote(ledger, "shop", stack[-1], serve, **WHO)
        elif len(stack) > 1:
            stack.pop()
            rollout.rollback(ledger, "shop", serve, **WHO)
        if stack:
            assert serve.applied[-1].champion == stack[-1]
    ledger.close()
