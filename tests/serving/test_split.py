"""Sticky arms: honoured to 1 %, independent between experiments, monotone in the share of a lone challenger."""

from collections import Counter
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.serving.split import pick, place

ENTITIES = [f"customer-{i}" for i in range(10_000)]


@settings(max_examples=20, deadline=None)
@given(
    parts=st.lists(st.floats(0.01, 1), min_size=2, max_size=5),
    tenant=st.text(max_size=20),
    experiment=st.text(max_size=10),
)
def test_variants_lie_end_to_end_and_the_champion_has_the_rest(parts, tenant, experiment):
    shares = [part / sum(parts) for part in parts][1:]
    arms = Counter(pick(shares, "churn", tenant, entity, experiment) for entity in ENTITIES)
    for index, share in enumerate(shares):
        # 10,000 draws have a standard error of at most 0.5 %; 1 % is asked on average, 4 sigma bounds a single try.
        assert abs(arms[index] / len(ENTITIES) - share) < 0.02
    ends = [*accumulate(shares), 1.0]
    for entity in ENTITIES[:200]:
        at = place("churn", tenant, entity, experiment)
        first = next(index for index, end in enumerate(ends) if at < end)
        assert pick(shares, "churn", tenant, entity, experiment) == (None if first == len(shares) else first)


@pytest.mark.parametrize("shares", [[0.01], [0.05], [0.25], [0.5], [0.9], [0.01, 0.05], [0.1] * 10, [0.2, 0.3, 0.4]])
def test_shares_are_honoured_to_one_percent_on_the_documented_size(shares):
    arms = Counter(pick(shares, "churn", "acme", entity, "1:2") for entity in ENTITIES)
    expected = dict(enumerate(shares)) | {None: 1 - sum(shares)}
    assert all(abs(arms[arm] / len(ENTITIES) - share) < 0.01 for arm, share in expected.items())


@given(key=st.text(), low=st.floats(0, 1), high=st.floats(0, 1))
def test_growing_share_moves_nobody_back(key, low, high):
    low, high = sorted((low, high))
    if pick([low], "u", "t", key, "e") == 0:
        assert pick([high], "u", "t", key, "e") == 0


@given(st.text(), st.text(), st.text(), st.text())
def test_place_is_in_range(use_case, tenant, key, experiment):
    assert 0 <= place(use_case, tenant, key, experiment) < 1


def test_places_are_those_of_the_releases_before():
    """Another hash would move the entities of every experiment that runs while a replica is updated."""
    assert place("shop", "acme", "customer-1", "1:2") == pytest.approx(0.7227892112187458, abs=1e-15)
    assert place("shop", "umbrella", "ключ-\ud800", "7:9:10") == pytest.approx(0.5566649506558711, abs=1e-15)


def test_ends_are_exact_and_fields_do_not_run_together():
    assert {pick([0.0], "u", "t", e, "x") for e in ENTITIES[:1000]} == {None}
    assert {pick([1.0], "u", "t", e, "x") for e in ENTITIES[:1000]} == {0}
    assert {pick([0.0, 1.0], "u", "t", e, "x") for e in ENTITIES[:1000]} == {1}
    assert {pick([], "u", "t", e, "x") for e in ENTITIES[:10]} == {None}
    assert place("a", "bc", "d", "e") != place("ab", "c", "d", "e")


def test_experiments_are_independent():
    both = [(pick([0.5], "u", "t", e, "1:2"), pick([0.5], "u", "t", e, "1:3")) for e in ENTITIES]
    same = sum(a == b for a, b in both) / len(both)
    assert abs(same - 0.5) < 0.03
