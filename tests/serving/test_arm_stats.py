"""What replicas count per arm while versions are compared, as the release actor's tally reads it."""

from datetime import UTC, datetime

import pytest

from raysaas.errors import InputError
from raysaas.stores.journal import tail

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}


def test_each_arm_of_a_comparison_is_counted_and_nothing_else(make_app):
    app = make_app()
    two = {"version": 2, **app.make_bundle(app.bundles / "2", seed=7)}
    ask = {"instances": [ROW] * 100, "entities": [f"e{i}" for i in range(100)]}
    app.client("POST", "/predict", ask)
    app.predictor.tick()
    assert tail(app.spec.storage.journal, "shop", "stats", {})[0] == [], "nothing is compared"
    variants = [{"name": "challenger", "share": 0.5, **two}]
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm}, "variants": variants})
    arms = [d["arm"] for d in app.client("POST", "/predict", ask).json["decisions"]]
    app.predictor.tick()
    lines = {line["arm"]: line for line in tail(app.spec.storage.journal, "shop", "stats", {})[0]}
    assert {arm: line["num"] for arm, line in lines.items()} == {arm: arms.count(arm) for arm in set(arms)}
    assert {(line["version"], line["errors"]) for line in lines.values()} == {(1, 0), (2, 0)}
    assert all(sum(line["latency"].values()) == 1 for line in lines.values())
    assert all(0 < float(edge) < 10_000 for line in lines.values() for edge in line["latency"])


def test_what_breaks_in_a_version_is_its_error_and_a_wrong_request_is_not(make_app):
    app = make_app()
    stats = app.predictor.arm_stats
    with pytest.raises(ZeroDivisionError), stats.measure("challenger", 2, 3):
        raise ZeroDivisionError
    with pytest.raises(InputError), stats.measure("champion", 1, 5):
        raise InputError("plan")
    with stats.measure("challenger", 2, 4):
        pass
    stats.flush(datetime(2026, 1, 1, tzinfo=UTC))
    (line,) = tail(app.spec.storage.journal, "shop", "stats", {})[0]
    assert (line["num"], line["errors"], sum(line["latency"].values())) == (7, 3, 1)


def test_a_variant_that_breaks_fails_no_request_and_is_counted(make_app):
    app = make_app()
    two = {"version": 2, **app.make_bundle(app.bundles / "2", seed=7, kinds={"amount": "boolean"})}
    variants = [{"name": "challenger", "share": 0.5, **two}]
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm}, "variants": variants})
    ask = {"instances": [ROW] * 100, "entities": [f"e{i}" for i in range(100)]}
    reply = app.client("POST", "/predict", ask)
    assert reply.status == 200
    assert {(d["arm"], d["model_version"]) for d in reply.json["decisions"]} == {("champion", 1)}
    records = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert {r["id"]: r["entity"] for r in records} == {
        d["decision_id"]: entity for d, entity in zip(reply.json["decisions"], ask["entities"], strict=True)
    }
    app.predictor.tick()
    lines = {line["arm"]: line for line in tail(app.spec.storage.journal, "shop", "stats", {})[0]}
    assert 30 < lines["challenger"]["errors"] == lines["challenger"]["num"]
    assert (lines["champion"]["num"], lines["champion"]["errors"]) == (100, 0)
    wrong = app.client("POST", "/predict", {"instances": [{"amount": "x"}], "entities": ["e1"]})
    assert wrong.status == 422, "the request's own fault stays its own"
