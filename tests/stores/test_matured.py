"""Outcomes of decisions: by id or key, late, early, repeated, corrected, out of order; tenants never mixed up."""

import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.settings import Storage
from raysaas.stores.journal import Journal, ship
from raysaas.stores.logs import SCHEMAS, as_table
from raysaas.stores.matured import joined, matured, reports, shadows
from raysaas.stores.tables import Tables

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(hour):
    return (START + timedelta(hours=hour)).isoformat()


def decision(id_, tenant="acme", key=None, hour=0):
    return {"id": id_, "use_case": "shop", "tenant": tenant, "entity": None, "inputs": {"x": 1.0}, "version": 1,
            "arm": "champion", "score": 0.5, "label": "Yes", "time": at(hour), "key": key}  # fmt: skip


def outcome(label, observed, known, decision_id=None, key=None, tenant="acme"):
    return {"decision_id": decision_id, "key": key, "use_case": "shop", "tenant": tenant, "label": label,
            "observed_at": at(observed), "known_at": at(known)}  # fmt: skip


names = st.sampled_from(["d0", "d1", "d2"])
keys = st.sampled_from(["k0", "k1", None])
tenants = st.sampled_from(["acme", "umbrella"])
decisions = st.lists(st.builds(decision, names, tenants, keys), max_size=6, unique_by=lambda one: one["id"])
hours = st.integers(-3, 3)
labels = st.sampled_from(["Yes", "No", "Maybe"])
by_id = st.builds(outcome, labels, hours, hours, names, st.none(), tenants)
by_key = st.builds(outcome, labels, hours, hours, st.none(), st.sampled_from(["k0", "k1"]), tenants)


def counting(one, told):
    """The brute-force answer: the label that counts for a decision, and how many reports there were."""
    mine = [
        o for o in told
        if o["tenant"] == one["tenant"]
        and (o["decision_id"] == one["id"] or (o["decision_id"] is None and one["key"] and o["key"] == one["key"]))
    ]  # fmt: skip
    last = max(mine, key=lambda o: (min(o["observed_at"], o["known_at"]), o["known_at"], o["label"]), default=None)
    return (last["label"] if last else None, len(mine))


@settings(max_examples=60)
@given(made=decisions, told=st.lists(st.one_of(by_id, by_key), max_size=12), seed=st.integers(0, 99))
def test_the_last_observed_then_last_known_outcome_counts_in_any_order(made, told, seed):
    told = told + told[:2]  # repeated: nothing changes but the count
    random.Random(seed).shuffle(told)
    rows = joined(as_table(made, "decisions"), as_table(told, "outcomes")).to_pylist()
    assert {row["id"]: (row["outcome"], row["num_told"]) for row in rows} == {m["id"]: counting(m, told) for m in made}


@pytest.fixture
def storage(tmp_path):
    return Storage(home=str(tmp_path / "var"))


def journaled(storage, kind, *records, shipped=False):
    journal = Journal(str(storage.journal), "shop", kind)
    journal.append(records)
    journal.close()
    if shipped:
        ship(str(storage.journal), "shop", kind, Tables(storage))


def test_journal_and_iceberg_are_one_log_and_a_decision_in_both_counts_once(storage):
    journaled(storage, "decisions", decision("d1", key="order-1"), decision("d2"), shipped=True)
    journaled(storage, "decisions", decision("d2"), decision("d3", "umbrella", "order-1", hour=1))
    journaled(storage, "outcomes", outcome("No", 1, 1, key="order-1"), shipped=True)
    journaled(storage, "outcomes", outcome("Yes", 2, 2, "d1"), outcome("Yes", 1, 1, "d3"))
    found = matured(storage, "shop", inputs=True)
    assert [(row["id"], row["outcome"]) for row in found.rows.to_pylist()] == [
        ("d1", "Yes"),
        ("d2", None),
        ("d3", None),
    ]
    assert found.snapshots["log.decisions"] == Tables(storage).current("log.decisions")
    assert found.unshipped == {"log.decisions": 2, "log.outcomes": 2}
    assert matured(storage, "shop", tenant="umbrella").rows["id"].to_pylist() == ["d3"]
    assert matured(storage, "shop", since=START + timedelta(minutes=1)).rows["id"].to_pylist() == ["d3"]
    assert matured(storage, "nobody").rows.num_rows == 0
    told = reports(storage, decision("d1", key="order-1"))
    assert [(one["label"], one["key"]) for one in told] == [("No", "order-1"), ("Yes", None)]
    assert reports(storage, decision("d3", "umbrella", "order-1")) == []


def test_tables_and_segments_of_an_earlier_release_stay_readable(storage):
    """Tables that were made before decisions had keys are widened by the next shipment, and read before it."""
    tables = Tables(storage)
    for kind, record in (("decisions", decision("old")), ("outcomes", outcome("No", 1, 1, "old"))):
        narrow = pa.schema([field for field in SCHEMAS[kind] if field.name not in ("key", "known_at")])
        tables.append(f"log.{kind}", as_table([record], kind).select(narrow.names))
    (row,) = matured(storage, "shop").rows.to_pylist()
    assert (row["outcome"], row["key"]) == ("No", None)
    assert [one["label"] for one in reports(storage, decision("old", key="order-9"))] == ["No"]
    old_segment = {
        name: value for name, value in outcome("Yes", 2, 2, "old").items() if name not in ("key", "known_at")
    }
    journaled(storage, "outcomes", old_segment, outcome("Maybe", 1, 3, key="order-2"), shipped=True)
    journaled(storage, "decisions", decision("new", key="order-2"), shipped=True)
    rows = matured(storage, "shop").rows.to_pylist()
    assert {row["id"]: row["outcome"] for row in rows} == {"old": "Yes", "new": "Maybe"}


def test_shadow_scores_of_a_decision_are_found_before_and_after_shipping(storage):
    score = {"decision_id": "d1", "use_case": "shop", "tenant": "acme", "score": 0.25, "label": "No", "time": at(0)}
    journaled(storage, "shadows", score | {"version": 3}, score | {"version": 2, "decision_id": "d2"}, shipped=True)
    journaled(storage, "shadows", score | {"version": 2})
    assert [one["version"] for one in shadows(storage, decision("d1"))] == [2, 3]
