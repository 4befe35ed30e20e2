"""The watch on a real journal and a real ledger, killed at every step it takes."""

import json
import random
from typing import Any

import numpy as np
import pytest

from raysaas.drift.policy import Alert, Retrain, Wait
from raysaas.drift.state import Reference, State
from raysaas.errors import CorruptBundle
from raysaas.records import Arm, OrderState, Severity
from raysaas.stores.ledger import ORDER_DEAD_S

from .conftest import USE_CASE, Shop, rows
from .mortal import Killed, Mortal


def test_unchanged_traffic_stays_silent_and_windows_are_exact(shop: Shop) -> None:
    shop.release(shop.arms[0])
    ids = shop.decide(rows(2050, seed=7))
    watch = shop.watch(window=400)
    reports = watch.poll()
    assert [report.window for report in reports] == [1, 2, 3, 4, 5]
    assert [report.decisions for report in reports] == [(ids[i], ids[i + 399]) for i in range(0, 2000, 400)]
    assert {report.severity for report in reports} == {Severity.silent}
    assert max(max(report.features.values()) for report in reports) < 0.05
    assert watch.status()["window"] == {"next": 6, "filled": 50, "of": 400}
    assert isinstance(watch.last_action, Wait)
    assert shop.orders == []


def test_changed_feature_orders_once_with_its_cause(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=400)
    shop.decide(rows(400, seed=1))
    shop.decide(rows(400, seed=2, plans=("basic", "team")))
    first = watch.poll()
    assert [report.severity for report in first] == [Severity.silent, Severity.drift]
    assert isinstance(watch.last_action, Alert)
    shop.decide(rows(800, seed=3, plans=("basic", "team")))
    watch.poll()
    assert [order.evidence["cause"] for order in shop.orders] == [["plan"]]
    assert shop.orders[0].evidence["version"] == 1
    assert shop.ledger.drift(USE_CASE)[0].cause == ("plan",)
    assert watch.poll() == []


def test_one_request_that_fills_two_windows_alerts_and_orders_nothing(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=400)
    ids = shop.decide(rows(1000, seed=1, shift=15), at=shop.tick())
    reports = watch.poll()
    assert [(report.severity, report.num_requests) for report in reports] == [(Severity.drift, 1)] * 2
    assert isinstance(watch.last_action, Alert)
    assert "Windows 1 to 2 came in 1 request(s): too few" in watch.status()["action"]["reason"]
    shop.observe(ids, ["no"] * 500 + ["yes"] * 500)
    assert {report.num_requests for report in watch.poll() if report.performance} == {1}
    assert shop.orders == []
    for number in range(30):  # the demo's traffic: requests of 20 rows
        shop.decide(rows(20, seed=number, shift=15), at=shop.tick())
    watch.poll()
    assert [order.evidence["release"] for order in shop.orders] == [1]


def test_reported_psi_is_never_negative_although_noise_is_taken_off(shop: Shop) -> None:
    shop.release(shop.arms[0])
    shop.decide(rows(2000, seed=7))
    reports = shop.watch(window=400).poll()
    values = [value for report in reports for value in (*report.features.values(), report.prediction)]
    assert min(values) == 0.0


def test_after_a_roll_back_the_windows_of_the_old_order_order_nothing_more(shop: Shop) -> None:
    shop.release(shop.arms[0])
    shop.release(shop.arms[1])
    watch = shop.watch(window=100, consecutive=2, cooldown_s=5)
    shop.decide(rows(200, seed=1, shift=15), version=2)
    watch.poll()
    shop.ledger.start_order(shop.orders[0].id)
    shop.release(shop.arms[0])
    shop.decide(rows(200, seed=2, shift=15), version=1)
    shop.decide(rows(200, seed=3, shift=15), version=2)
    watch.poll()
    assert watch.last_action.reason.endswith("A retraining is under way.")
    shop.ledger.close_order(shop.orders[0].id, OrderState.done, "not released", shop.tick())
    watch.poll()
    assert len(shop.orders) == 1
    shop.decide(rows(100, seed=4, shift=15), version=1)
    watch.poll()
    assert "the next may start 5 s later" in watch.last_action.reason
    shop.tick(5)
    shop.decide(rows(100, seed=5, shift=15), version=1)
    watch.poll()
    assert [(order.evidence["version"], order.evidence["release"]) for order in shop.orders] == [(2, 2), (1, 3)]


def test_cooldown_grows_with_every_vain_order(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=100, consecutive=1, cooldown_s=60)
    waits = []
    for _ in range(4):
        before = len(shop.orders)
        started = shop.now
        while len(shop.orders) == before:
            shop.decide(rows(100, seed=len(waits), shift=15))
            shop.tick(10)
            watch.poll()
        waits.append((shop.now - started).total_seconds())
        shop.ledger.close_order(shop.orders[-1].id, OrderState.done, "refused by the gate", shop.now)
    assert waits[0] < 60 <= waits[1] < waits[2] < waits[3]


def test_an_order_whose_job_died_makes_room_for_the_next(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=100, consecutive=1, cooldown_s=0)
    shop.decide(rows(100, seed=1, shift=15))
    watch.poll()
    shop.ledger.start_order(shop.orders[0].id)
    shop.decide(rows(100, seed=2, shift=15))
    watch.poll()
    assert len(shop.orders) == 1, "its job may still be at work"
    shop.tick(ORDER_DEAD_S)
    shop.decide(rows(100, seed=3, shift=15))
    watch.poll()
    assert [shop.ledger.order(order.id).state for order in shop.orders] == [OrderState.failed, OrderState.open]


def test_new_release_restarts_windows_and_forgets_the_old_run(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=200, consecutive=2)
    shop.decide(rows(350, seed=1, shift=15))
    watch.poll()
    shop.release(shop.arms[1])
    shop.decide(rows(200, seed=2), version=2)
    shop.decide(rows(100, seed=3, shift=15), version=1)
    assert [(report.version, report.window) for report in watch.poll()] == [(2, 1)]
    shop.release(shop.arms[0])
    shop.decide(rows(200, seed=4, shift=15), version=1)
    assert [(report.version, report.window) for report in watch.poll()] == [(1, 2)]
    assert isinstance(watch.last_action, Alert), "the window before the roll-back must not count as the first of two"
    shop.decide(rows(200, seed=5, shift=15), version=1)
    watch.poll()
    assert isinstance(watch.last_action, Retrain)


def test_decisions_of_a_version_released_while_polling_are_kept(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=100)
    release, calls = shop.ledger.release, []

    def switched_between(use_case: str) -> Any:
        found = release(use_case)
        calls.append(use_case)
        if len(calls) == 1:
            shop.release(shop.arms[1])
            shop.decide(rows(100, seed=1), version=2)
        return found

    shop.ledger.release = switched_between  # type: ignore[method-assign]
    assert [report.version for report in watch.poll()] == [2]


def test_outcomes_show_a_drop_that_no_feature_shows(shop: Shop) -> None:
    shop.release(shop.arms[0])
    watch = shop.watch(window=400, min_outcomes=200)
    rng = np.random.default_rng(0)
    for concept, severity in ((1.0, Severity.silent), (-1.0, Severity.drift)):
        columns = rows(400, seed=11)
        ids = shop.decide(columns)
        truth = 1 / (1 + np.exp(-concept * (columns["age"] - 40) / 10))
        shop.observe(ids, ["yes" if yes else "no" for yes in rng.random(400) < truth])
        reports = [report for report in watch.poll() if report.performance]
        assert [report.severity for report in reports] == [severity] * 2
        assert {report.num_decisions for report in reports} == {200}
    assert reports[0].performance["auc"] < 0.5 < reports[0].performance["reference_auc"]
    assert [order.evidence["cause"] for order in shop.orders] == [["performance"]]


def test_unknown_decisions_and_labels_are_counted_not_measured(shop: Shop) -> None:
    shop.release(shop.arms[0])
    ids = shop.decide(rows(3, seed=0))
    shop.observe([*ids, "nobody", ids[0]], ["yes", "no", "maybe", "yes", "no"])
    watch = shop.watch()
    watch.poll()
    assert watch.status()["outcomes"] == 2
    assert watch.status()["ignored"] == 3


def test_an_outcome_by_key_is_of_the_tenants_decisions_of_that_name_even_after_a_restart(shop: Shop) -> None:
    shop.release(shop.arms[0])
    base = {"use_case": "shop", "inputs": {"age": 30.0, "plan": "a"}, "version": 1, "score": 0.5, "label": "no"}
    made = [("d1", "t", "order-1"), ("d2", "t", "order-1"), ("d3", "u", "order-1"), ("d4", "t", None)]
    shop.journal("decisions").append(
        [
            {**base, "id": key, "tenant": tenant, "key": name, "time": shop.tick().isoformat()}
            for key, tenant, name in made
        ]
    )
    watch = shop.watch()
    watch.poll()
    watch.save()
    told = {
        "decision_id": None,
        "key": "order-1",
        "tenant": "t",
        "label": "yes",
        "observed_at": shop.tick().isoformat(),
    }
    shop.journal("outcomes").append([told, told, {**told, "key": "order-2"}])
    watch = shop.watch()
    watch.poll()
    assert (watch.status()["outcomes"], watch.status()["ignored"]) == (2, 2), "nobody decided on order-2 yet"
    assert sorted(watch.state.tracks[1].pending) == ["d3/u", "d4/t"]


def test_what_a_watch_remembers_is_bounded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysaas.drift.watch.MAX_PENDING", 100)
    monkeypatch.setattr("raysaas.drift.track.MAX_REPORTED", 300)
    shop.release(shop.arms[0])
    watch = shop.watch(min_outcomes=50)
    base = {"use_case": USE_CASE, "inputs": {"age": 30.0}, "version": 1, "label": "no", "arm": "champion"}
    sizes = []
    for part in range(12):
        made = [{**base, "id": f"{part}-{i}", "tenant": "t", "key": f"{part}-{i % 50}", "score": i / 200,
                 "time": shop.tick().isoformat()} for i in range(200)]  # fmt: skip
        shop.journal("decisions").append(made)
        watch.poll()
        shop.observe([one["id"] for one in made[-90:]], ["yes", "no"] * 45)
        watch.poll()
        sizes.append(len(json.dumps(watch.state.to_json()["tracks"])))
    track = watch.state.tracks[1]
    assert sum(len(window.rows) for window in track.reported) <= 300
    assert sum(map(len, track.named.values())) <= 500
    assert max(sizes[6:]) < 1.3 * min(sizes[6:]), sizes


def test_broken_records_do_not_stop_the_watch(shop: Shop) -> None:
    shop.release(shop.arms[0])
    shop.journal("decisions").append([{"id": "x", "version": 1}, {"version": None}])
    shop.journal("outcomes").append([{"label": "yes"}])
    shop.decide({"age": np.array([np.nan] * 100), "plan": np.array([None] * 100)})
    reports = shop.watch(window=100).poll()
    assert [report.num_decisions for report in reports] == [100]
    assert reports[0].severity is Severity.drift


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_write_loses_and_doubles_nothing(shop: Shop, after: bool, seed: int) -> None:
    """Every decision is in exactly one window and one order is handed on, wherever the process dies."""
    shop.release(shop.arms[0])
    rng, real, ids, seen = random.Random(seed), shop.ledger, [], 0
    writers = [shop.journal("decisions") for _ in range(3)]
    for step in range(12):
        for writer in writers:
            ids += shop.decide(rows(rng.randrange(1, 90), seed=step, shift=15), journal=writer)
        shop.ledger = Mortal(real, rng.randrange(1, 7), after)  # type: ignore[assignment]
        try:
            watch = shop.watch(window=100)
            shop.tick(6)
            watch.poll()
        except Killed:
            seen += 1
    shop.ledger = real
    watch = shop.watch(window=100)
    watch.poll()
    reports = real.drift(USE_CASE, 1000)
    assert seen > 3
    assert sorted(report.window for report in reports) == list(range(1, len(ids) // 100 + 1))
    assert len({report.decisions for report in reports}) == len(reports)
    assert len(reports) * 100 + watch.status()["window"]["filled"] == len(ids)
    assert len(real.orders(USE_CASE)) == 1
    assert {order.id for order in shop.orders} == {real.orders(USE_CASE)[0].id}


def test_state_survives_json(shop: Shop) -> None:
    shop.release(shop.arms[0], challenger=shop.arms[1])
    ids = shop.decide(rows(30, seed=0))
    shop.decide(rows(30, seed=0), version=2)
    shop.observe(ids[:5], ["yes"] * 5)
    watch = shop.watch()
    watch.poll()
    saved = watch.state.to_json()
    assert State.from_json(saved).to_json() == saved
    assert State.from_json(json.loads(json.dumps(saved))).to_json() == saved
    older = {"next_window": 3, "since": 1, "decisions": None, "matured": [[0.5, "yes", "yes"]], "baseline": {},
             "pending": {"d1": [0.5, "yes"]}, "named": {'["t", "order-1"]': ["d1"]}, "matured_span": None}  # fmt: skip
    track = State.from_json({**saved, "tracks": {"1": older}}).tracks[1]
    assert (track.pending, [row.moment for row in track.matured.rows.values()]) == ({"d1": (0.5, "yes", "")}, [""])
    assert track.decided({"key": "order-1", "tenant": "t"}) == ["d1"]
    assert set(saved["tracks"]) == {"1", "2"}


def test_order_that_cannot_be_handed_on_is_closed_as_failed(shop: Shop) -> None:
    def refuse(order: object) -> None:
        raise RuntimeError("no cluster")

    shop.release(shop.arms[0])
    shop.decide(rows(200, seed=1, shift=15))
    watch = shop.watch(window=100)
    watch._on_order = refuse
    watch.poll()
    order = shop.ledger.orders(USE_CASE)[0]
    assert order.state is OrderState.failed
    assert "no cluster" in order.result


def test_reference_refuses_another_bundle(arms: list[Arm]) -> None:
    reference = Reference.read(arms[0])
    assert reference.labels == ("no", "yes")
    assert reference.metrics == {"auc": 0.76}
    with pytest.raises(CorruptBundle, match="version 1"):
        Reference.read(Arm(version=1, uri=arms[0].uri, digest=arms[1].digest))


def test_no_release_is_no_work(shop: Shop) -> None:
    shop.decide(rows(500, seed=0))
    watch = shop.watch(window=100)
    assert watch.poll() == []
    shop.release(shop.arms[0])
    assert len(watch.poll()) == 5


def test_promoted_challenger_starts_anew(shop: Shop) -> None:
    shop.release(shop.arms[0], challenger=shop.arms[1])
    watch = shop.watch(window=100, consecutive=2)
    shop.decide(rows(150, seed=1, shift=15), version=2)
    assert [(report.version, report.severity) for report in watch.poll()] == [(2, Severity.drift)]
    assert shop.orders == [], "a challenger's drift orders nothing"
    shop.release(shop.arms[1])
    watch.poll()
    ids = shop.decide(rows(100, seed=2, shift=15), version=2)
    assert [report.decisions for report in watch.poll()] == [(ids[0], ids[-1])]
    assert isinstance(watch.last_action, Alert)
