"""What each step keeps and changes, on the real ledger; and the history that people read."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raysaas.errors import Frozen, InputError, NotFound
from raysaas.records import Arm, Release, Variant
from raysaas.release import rollout, steps
from raysaas.stores.ledger import Ledger

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
WHO: dict[str, Any] = {"actor": "ana", "reason": "because", "now": NOW}


def arm(version: int) -> Arm:
    return Arm(version=version, uri=f"/bundles/{version}", digest=f"{version:064d}")


def nothing(_: Release) -> None:
    """Serve takes every release."""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    rollout.promote(ledger, "shop", arm(1), nothing, **WHO)
    return ledger


def test_a_growing_canary_keeps_its_salt_and_another_one_gets_a_new_one(ledger: Ledger) -> None:
    first = rollout.start_canary(ledger, "shop", arm(2), 0.01, nothing, **WHO)
    grown = rollout.start_canary(ledger, "shop", arm(2), 0.05, nothing, **WHO)
    other = rollout.start_canary(ledger, "shop", arm(3), 0.05, nothing, **WHO)
    assert (first.experiment, grown.experiment, other.experiment) == ("2", "2", "4")
    rollout.rollback(ledger, "shop", nothing, **WHO)
    again = rollout.start_canary(ledger, "shop", arm(2), 0.01, nothing, **WHO)
    assert again.experiment == "6", "the entities of the first time are not those of the second"
    assert [steps.next_stage(one, [0.01, 0.05, 0.25, 1.0]) for one in (first, grown)] == [0.05, 0.25]
    last = rollout.start_canary(ledger, "shop", arm(2), 0.25, nothing, **WHO)
    assert steps.next_stage(last, [0.01, 0.05, 0.25, 1.0]) is None


def test_several_variants_share_the_traffic_and_a_rollback_ends_the_test(ledger: Ledger) -> None:
    test = rollout.start_ab(ledger, "shop", {"b": (arm(2), 0.3), "c": (arm(3), 0.2)}, nothing, **WHO)
    assert test.variants == (Variant(name="b", arm=arm(2), share=0.3), Variant(name="c", arm=arm(3), share=0.2))
    assert {found.version for found in test.arms()} == {1, 2, 3}
    back = rollout.rollback(ledger, "shop", nothing, **WHO)
    assert (back.champion, back.variants, back.experiment) == (arm(1), (), "")


@pytest.mark.parametrize(
    ("variants", "said"),
    [({}, "at least one"), ({"b": 0.6, "c": 0.4}, "under 1 in all"), ({"champion": 0.1}, "none of champion"),
     ({"b c": 0.1}, "letters and digits"), ({"b": 0.0}, "share of b"), ({"b": float("nan")}, "share of b")],
)  # fmt: skip
def test_a_wrong_test_is_refused_in_one_sentence(ledger: Ledger, variants: dict[str, float], said: str) -> None:
    wanted = {name: (arm(2), share) for name, share in variants.items()}
    with pytest.raises(InputError, match=said):
        rollout.start_ab(ledger, "shop", wanted, nothing, **WHO)
    assert len(ledger.releases("shop")) == 1


def test_a_tenants_own_version_outlives_promotions_and_goes_back_on_its_own(ledger: Ledger) -> None:
    for version in (2, 3):
        rollout.promote(ledger, "shop", arm(version), nothing, **WHO, tenant="acme")
    rollout.promote(ledger, "shop", arm(4), nothing, **WHO, tenant="umbrella")
    promoted = rollout.promote(ledger, "shop", arm(5), nothing, **WHO)
    assert promoted.tenants == {"acme": arm(3), "umbrella": arm(4)}
    back = rollout.rollback(ledger, "shop", nothing, **WHO, tenant="acme")
    assert (back.champion, back.tenants) == (arm(5), {"acme": arm(2), "umbrella": arm(4)})
    assert rollout.rollback(ledger, "shop", nothing, **WHO, tenant="acme").tenants == {"umbrella": arm(4)}
    with pytest.raises(NotFound, match="no version of its own"):
        rollout.rollback(ledger, "shop", nothing, **WHO, tenant="acme")
    assert rollout.rollback(ledger, "shop", nothing, **WHO).tenants == {"umbrella": arm(4)}


def test_frozen_refuses_everyone_and_says_by_whom_and_what_to_do(ledger: Ledger) -> None:
    rollout.start_canary(ledger, "shop", arm(2), 0.1, nothing, **WHO)
    frozen = rollout.freeze(ledger, "shop", nothing, actor="bob", reason="holidays", now=NOW)
    assert frozen.variants, "what runs goes on"
    said = r"frozen since 2026-01-01 12:30 UTC by bob \(holidays\): `raysaas unfreeze shop` first"
    for change in (
        lambda: rollout.promote(ledger, "shop", arm(2), nothing, **WHO),
        lambda: rollout.promote(ledger, "shop", arm(2), nothing, **WHO, since=frozen.sequence),
        lambda: rollout.promote(ledger, "shop", arm(2), nothing, **WHO, tenant="acme"),
        lambda: rollout.rollback(ledger, "shop", nothing, **WHO),
        lambda: rollout.start_canary(ledger, "shop", arm(2), 0.2, nothing, **WHO),
        lambda: rollout.start_shadow(ledger, "shop", arm(3), nothing, **WHO),
        lambda: rollout.start_ab(ledger, "shop", {"b": (arm(3), 0.1)}, nothing, **WHO),
    ):
        with pytest.raises(Frozen, match=said):
            change()
    assert ledger.release("shop") == frozen
    assert rollout.freeze(ledger, "shop", nothing, **WHO) == frozen, "frozen twice is frozen"
    assert not rollout.freeze(ledger, "shop", nothing, **WHO, frozen=False).frozen
    assert rollout.promote(ledger, "shop", arm(2), nothing, **WHO).champion == arm(2)


def test_history_says_what_changed_in_words(ledger: Ledger) -> None:
    rollout.start_canary(ledger, "shop", arm(2), 0.01, nothing, **WHO)
    rollout.start_canary(ledger, "shop", arm(2), 0.05, nothing, **WHO)
    rollout.promote(ledger, "shop", arm(2), nothing, **WHO)
    rollout.start_ab(ledger, "shop", {"b": (arm(3), 0.3), "c": (arm(4), 0.2)}, nothing, **WHO)
    rollout.start_shadow(ledger, "shop", arm(3), nothing, **WHO)
    rollout.promote(ledger, "shop", arm(3), nothing, **WHO, tenant="acme")
    rollout.rollback(ledger, "shop", nothing, **WHO, tenant="acme")
    rollout.freeze(ledger, "shop", nothing, **WHO)
    rollout.freeze(ledger, "shop", nothing, **WHO, frozen=False)
    assert steps.changes(ledger.releases("shop"))[::-1] == [
        "version 1 is the champion",
        "canary of version 2 at 0.01",
        "canary of version 2 at 0.05",
        "champion 1 -> 2; canary of version 2 at 0.05 ends",
        "A/B b: version 3 at 0.3, c: version 4 at 0.2",
        "A/B b: version 3 at 0.3, c: version 4 at 0.2 ends; version 3 shadows",
        "tenant acme: version 3",
        "tenant acme: the champion",
        "frozen",
        "unfrozen",
    ]


VERBS = st.sampled_from(["promote", "canary", "shadow", "ab", "tenant", "rollback", "untenant", "freeze", "unfreeze"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(verbs=st.lists(st.tuples(VERBS, st.integers(1, 4)), max_size=15))
def test_whatever_people_do_history_is_complete_and_what_was_recorded_is_applied(
    tmp_path_factory: pytest.TempPathFactory, verbs: list[tuple[str, int]]
) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('steps')}/ledger.db")
    applied: list[Release] = []
    rollout.promote(ledger, "shop", arm(1), applied.append, **WHO)
    acts: dict[str, Any] = {
        "promote": lambda n: rollout.promote(ledger, "shop", arm(n), applied.append, **WHO),
        "canary": lambda n: rollout.start_canary(ledger, "shop", arm(n), n / 10, applied.append, **WHO),
        "shadow": lambda n: rollout.start_shadow(ledger, "shop", arm(n), applied.append, **WHO),
        "ab": lambda n: rollout.start_ab(ledger, "shop", {"b": (arm(n), 0.2)}, applied.append, **WHO),
        "tenant": lambda n: rollout.promote(ledger, "shop", arm(n), applied.append, **WHO, tenant="acme"),
        "rollback": lambda _: rollout.rollback(ledger, "shop", applied.append, **WHO),
        "untenant": lambda _: rollout.rollback(ledger, "shop", applied.append, **WHO, tenant="acme"),
        "freeze": lambda _: rollout.freeze(ledger, "shop", applied.append, **WHO),
        "unfreeze": lambda _: rollout.freeze(ledger, "shop", applied.append, **WHO, frozen=False),
    }
    for verb, number in verbs:
        before = ledger.release("shop")
        try:
            release = acts[verb](number)
        except (Frozen, NotFound):
            assert ledger.release("shop") == before
            continue
        assert applied[-1] == release == ledger.release("shop")
    history = ledger.releases("shop")
    assert [release.sequence for release in history] == list(range(len(history), 0, -1))
    assert "nothing" not in steps.changes(history)
    ledger.close()
