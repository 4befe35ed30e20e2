"""The SQL ledger: rules that must hold over processes are held by the database."""

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from raysaas.errors import NotFound, Unavailable
from raysaas.records import Arm, DriftReport, OrderState, Release, Severity, Variant
from raysaas.stores.ledger import ORDER_DEAD_S, Ledger

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
RELEASE = Release(
    use_case="churn", sequence=1, champion=Arm(version=1, uri="a", digest="d"), actor="me", reason="why", at=NOW
)
REPORT = DriftReport(
    use_case="churn", version=1, window=1, num_decisions=400, started_at=NOW, ended_at=NOW + timedelta(minutes=1),
    decisions=("a", "z"), features={"x": 0.5}, prediction=0.1, severity=Severity.drift, cause=("x",),
)  # fmt: skip


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger(f"sqlite:///{home}/ledger.db")


def test_keys_are_kept_by_digest_with_scopes_and_expiry(ledger: Ledger) -> None:
    ledger.add_key("digest", "acme", ["predict"], NOW)
    (row,) = ledger.keys()
    assert (row.digest, row.tenant, row.scopes, row.expires_at) == ("digest", "acme", ("predict",), NOW)


def test_releases_come_back_equal_and_newest_first(ledger: Ledger) -> None:
    two, three = (Arm(version=n, uri="b", digest="e", features="f") for n in (2, 3))
    variants = (Variant(name="b", arm=two, share=0.05), Variant(name="c", arm=three, share=0.1))
    second = replace(
        RELEASE, sequence=2, variants=variants, shadow=three, tenants={"acme": two}, frozen=True, experiment="2"
    )
    ledger.set_release(RELEASE)
    ledger.set_release(second)
    assert ledger.releases("churn") == [second, RELEASE]
    assert ledger.release("churn") == second
    assert ledger.released() == ["churn"]
    assert ledger.release("other") is None


def test_a_release_of_before_variants_loads_as_one_challenger_that_keeps_its_entities(
    ledger: Ledger, home: Path
) -> None:
    one, two = ({"version": n, "uri": "u", "digest": f"d{n}", "features": ""} for n in (1, 2))
    body = {
        "use_case": "churn", "sequence": 1, "champion": one, "challenger": two, "shadow": None,
        "challenger_share": 0.05, "actor": "me", "reason": "why", "at": NOW.isoformat(),
    }  # fmt: skip
    alone = body | {"sequence": 2, "challenger": None, "challenger_share": 0.0}
    insert = sa.text("insert into releases (use_case, sequence, body, at) values ('churn', :sequence, :body, :at)")
    with sa.create_engine(f"sqlite:///{home}/ledger.db").begin() as connection:
        for row in (body, alone):
            connection.execute(insert, {"sequence": row["sequence"], "body": json.dumps(row), "at": str(NOW)[:19]})
    newest, first = ledger.releases("churn")
    assert first.variants == (Variant(name="challenger", arm=Arm(**two), share=0.05),)
    assert (first.experiment, first.tenants, first.frozen) == ("1:2", {}, False), "the salt that replicas used before"
    assert (newest.variants, newest.shadow, newest.experiment, newest.sequence) == ((), None, "", 2)


def test_a_sequence_is_used_once_and_in_order(ledger: Ledger) -> None:
    with pytest.raises(Unavailable, match="expected 1"):
        ledger.set_release(replace(RELEASE, sequence=2))
    ledger.set_release(RELEASE)
    with pytest.raises(Unavailable, match="expected 2"):
        ledger.set_release(RELEASE)


def test_of_many_writers_one_wins_each_sequence(ledger: Ledger) -> None:
    won: list[str] = []

    def release(actor: str) -> None:
        try:
            ledger.set_release(replace(RELEASE, actor=actor))
        except Unavailable:
            return
        won.append(actor)

    threads = [threading.Thread(target=release, args=(f"writer-{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.actor for r in ledger.releases("churn")] == won
    assert len(won) == 1


def test_a_drift_window_is_recorded_once(ledger: Ledger) -> None:
    assert ledger.add_drift(REPORT)
    assert not ledger.add_drift(replace(REPORT, prediction=9.9))
    assert ledger.drift("churn") == [REPORT]


def test_one_retrain_order_is_open_at_a_time(ledger: Ledger) -> None:
    order = ledger.open_order("churn", "drift", {"psi": 0.5}, NOW)
    assert order is not None
    assert ledger.open_order("churn", "again", {}, NOW) is None
    assert ledger.open_order("other", "drift", {}, NOW) is not None
    assert ledger.start_order(order.id)
    assert not ledger.start_order(order.id)
    assert ledger.open_order("churn", "still running", {}, NOW) is None
    ledger.close_order(order.id, OrderState.done, "version 2", NOW)
    closed = ledger.order(order.id)
    assert (closed.state, closed.result, closed.closed_at, closed.evidence) == (
        OrderState.done,
        "version 2",
        NOW,
        {"psi": 0.5},
    )
    assert ledger.open_order("churn", "next", {}, NOW) is not None
    with pytest.raises(NotFound):
        ledger.order(99)


def test_an_order_whose_job_died_expires_and_a_living_one_does_not(ledger: Ledger) -> None:
    order = ledger.open_order("churn", "drift", {}, NOW)
    other = ledger.open_order("other", "drift", {}, NOW)
    assert order is not None
    assert other is not None
    ledger.start_order(order.id)
    ledger.beat_order(order.id, NOW + timedelta(seconds=ORDER_DEAD_S))
    later = NOW + timedelta(seconds=2 * ORDER_DEAD_S)
    assert ledger.expire_orders("churn", later) == 0
    assert ledger.open_order("churn", "again", {}, later) is None
    later += timedelta(seconds=1)
    assert ledger.expire_orders("churn", later) == 1
    assert (ledger.order(order.id).state, ledger.order(other.id).state) == (OrderState.failed, OrderState.open)
    assert ledger.order(order.id).closed_at == later
    assert ledger.open_order("churn", "again", {}, later) is not None


def test_actor_state_survives_a_new_connection(ledger: Ledger, home: Path) -> None:
    assert ledger.get_state("drift/churn") is None
    ledger.set_state("drift/churn", {"offsets": {"a": 1}})
    ledger.set_state("drift/churn", {"offsets": {"a": 2}})
    assert Ledger(f"sqlite:///{home}/ledger.db").get_state("drift/churn") == {"offsets": {"a": 2}}
