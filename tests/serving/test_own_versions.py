"""Versions of tenants' own: many named, few in memory, loaded off everybody else's path, and none that is broken."""

import asyncio
import hashlib
import json
import logging
import os
import threading
import time

import onnx
import pytest

from raysaas.errors import DeadlineExceeded
from raysaas.models import bundle
from raysaas.serving import own_versions
from raysaas.serving.protocol import PredictRequest
from raysaas.settings import ExtraFields
from raysaas.stores.generations import OnlineService, OnlineView, publish
from raysaas.stores.journal import tail
from raysaas.stores.online import OnlineStore

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
ONE = PredictRequest(instances=[ROW], entities=[None], by_entity=False)


def named(app, num, first=10):
    """``num`` tenants with a version each; by tenant."""
    arms = {}
    for number in range(first, first + num):
        arms[f"t{number}"] = {"version": number, **app.make_bundle(app.bundles / str(number), seed=number)}
    return arms


def release(app, sequence, tenants, **more):
    app.predictor.release({"sequence": sequence, "champion": {"version": 1, **app.arm}, "tenants": tenants, **more})


def for_one_row(app, number):
    """A version whose graph was exported for a batch of one: it loads, and raises when it is asked for two rows."""
    folder = app.bundles / str(number)
    app.make_bundle(folder, seed=number)
    graph = onnx.load(folder / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model = graph.SerializeToString()
    (folder / "model.onnx").write_bytes(model)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["model.onnx"] = {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}
    body = json.dumps(manifest).encode()
    digest = hashlib.sha256(body).hexdigest()
    (folder / "manifest.json").write_bytes(body)
    (folder / "manifest.sha256").write_text(digest)
    return {"version": number, "uri": str(folder), "digest": digest}


async def ask(app, tenant, request=ONE):
    return (await app.predictor.decide(tenant, request))[0]


def test_the_door_waits_for_it_too(make_app):
    app = make_app()
    acme = {"version": 7, **app.make_bundle(app.bundles / "7", seed=7)}
    release(app, 2, {"acme": acme})
    for _ in range(2):
        decision = app.client("POST", "/predict", {"instances": [ROW]}).json["decisions"][0]
        assert (decision["arm"], decision["model_version"]) == ("tenant", 7)
    assert app.client("POST", "/predict", {"instances": [{"nope": 1}]}).status == 422
    umbrella = app.client("POST", "/predict", {"instances": [ROW]}, key=app.keys["umbrella"]).json["decisions"][0]
    assert (umbrella["arm"], umbrella["model_version"]) == ("champion", 1)


def answers(app, *tenants):
    async def together():
        return await asyncio.gather(*(ask(app, tenant) for tenant in tenants))

    return [(d["arm"], d["model_version"]) for d in asyncio.run(together())]


def test_a_tenant_gets_its_own_version_whatever_is_being_compared(make_app):
    app = make_app()
    tenants = named(app, 2)
    two = {"version": 2, **app.make_bundle(app.bundles / "2", seed=2)}
    release(app, 2, tenants, variants=[{"name": "challenger", "share": 1.0, **two}])
    assert answers(app, "t10", "acme", "t11", "t10") == [
        ("tenant", 10), ("challenger", 2), ("tenant", 11), ("tenant", 10),
    ]  # fmt: skip
    records = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert {(r["tenant"], r["arm"], r["version"]) for r in records} == {
        ("t10", "tenant", 10), ("t11", "tenant", 11), ("acme", "challenger", 2),
    }  # fmt: skip
    release(app, 3, {})
    assert answers(app, "t10") == [("champion", 1)]


def test_few_are_in_memory_and_all_answer(make_app):
    app = make_app(serve={"tenant_models": 2})
    release(app, 2, named(app, 5))
    for _ in range(2):
        for number in range(10, 15):
            assert answers(app, f"t{number}") == [("tenant", number)]
    assert app.predictor.own.counts() == {"loaded": 10, "evicted": 8, "refused": 0, "failed": 0}
    assert answers(app, "t14", "t13") == [("tenant", 14), ("tenant", 13)]
    assert app.predictor.own.counts()["loaded"] == 10


def test_more_tenants_at_once_than_memory_holds(make_app):
    app = make_app(serve={"tenant_models": 1})
    release(app, 2, named(app, 4))
    tenants = [f"t{number}" for number in (10, 11, 12, 13) * 3]
    assert answers(app, *tenants) == [("tenant", int(tenant[1:])) for tenant in tenants]


def test_a_cold_bundle_is_loaded_once_for_all_who_wait(make_app):
    app = make_app()
    release(app, 2, named(app, 1))
    assert answers(app, *["t10"] * 20) == [("tenant", 10)] * 20
    assert app.predictor.own.counts() == {"loaded": 1, "evicted": 0, "refused": 0, "failed": 0}


def test_a_slow_bundle_holds_up_its_own_tenant_and_nobody_else(make_app):
    """The disk is slow for real: the model is a pipe, and its bytes come after 0.6 s."""
    app = make_app()
    tenants = named(app, 2)
    model = app.bundles / "10" / "model.onnx"
    data = model.read_bytes()
    model.unlink()
    os.mkfifo(model)
    release(app, 2, tenants)

    def deliver():
        time.sleep(0.6)
        model.write_bytes(data)

    async def meanwhile():
        writer = threading.Thread(target=deliver)
        writer.start()
        started = time.perf_counter()
        slow = asyncio.create_task(ask(app, "t10"))
        with pytest.raises(DeadlineExceeded):
            await app.predictor.decide("t10", ONE, time.monotonic() + 0.05)
        assert time.perf_counter() - started < 0.4, "who has no time is told so in time"
        took, arms = [], set()
        while not slow.done():
            for tenant in ("acme", "t11"):
                before = time.perf_counter()
                arms.add((await ask(app, tenant))["arm"])
                took.append(time.perf_counter() - before)
            await asyncio.sleep(0.002)
        waited = time.perf_counter() - started
        writer.join()
        return (await slow)["model_version"], waited, sorted(took), arms

    version, waited, took, arms = asyncio.run(meanwhile())
    assert (version, arms) == (10, {"champion", "tenant"})
    assert waited >= 0.6
    assert len(took) > 50
    assert took[len(took) * 9 // 10] < 0.05, "nine in ten of the others were answered at once"


def test_a_broken_one_is_told_of_and_the_champion_answers_until_it_is_whole(make_app, monkeypatch):
    app = make_app()
    release(app, 2, named(app, 2))
    assert answers(app, "t11") == [("tenant", 11)]
    model = app.bundles / "10" / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + b"x")
    assert answers(app, "t10", "t11") == [("champion", 1), ("tenant", 11)]
    health = app.client("GET", "/health", key="").json
    assert health["status"] == "degraded"
    assert "Version 10" in health["problem"]
    assert "t10" not in health["problem"].replace(str(app.bundles), "")
    assert app.predictor.own.counts()["refused"] == 1
    assert answers(app, "t10") == [("champion", 1)]
    assert app.predictor.own.counts()["refused"] == 1, "not tried again at once"
    model.write_bytes(whole)
    monkeypatch.setattr(own_versions, "_RETRY_S", 0.0)
    assert answers(app, "t10") == [("tenant", 10)]
    assert app.predictor.health()["status"] == "ok"


def arms_of(reply):
    assert reply.status == 200, reply.body
    return [(d["arm"], d["model_version"]) for d in reply.json["decisions"]]


def test_one_that_raises_is_told_of_and_the_champion_answers_until_it_is_tried_again(make_app, monkeypatch, caplog):
    app = make_app()
    two = {"version": 2, **app.make_bundle(app.bundles / "2", seed=2)}
    variants = [{"name": "challenger", "share": 1.0, **two}]
    release(app, 2, {"acme": for_one_row(app, 7)}, variants=variants)
    other = app.keys["umbrella"]

    def predict(num, key=None):
        return arms_of(app.client("POST", "/predict", {"instances": [ROW] * num}, key=key))

    with caplog.at_level(logging.ERROR):
        assert predict(1) == [("tenant", 7)]
        assert predict(2) == [("champion", 1)] * 2, "not the challenger, which is on trial"
        assert predict(1) == [("champion", 1)], "not tried again at once"
    assert predict(2, other) == [("challenger", 2)] * 2
    health = app.client("GET", "/health", key="").json
    assert health["status"] == "degraded"
    assert "Version 7 raised InvalidArgument while predicting." in health["problem"]
    assert "acme" not in health["problem"]
    assert app.predictor.own.counts() == {"loaded": 1, "evicted": 0, "refused": 0, "failed": 1}
    records = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert [(r["arm"], r["version"]) for r in records if r["tenant"] == "acme"] == [("tenant", 7)] + [
        ("champion", 1)
    ] * 3
    champion = bundle.load(app.arm["uri"])
    assert records[1]["score"] == pytest.approx(champion.predict(champion.encoder.rows([ROW])).score[0], rel=1e-6)

    monkeypatch.setattr(own_versions, "_RETRY_S", 0.0)
    with caplog.at_level(logging.ERROR):
        assert predict(1) == [("tenant", 7)]
        assert app.predictor.health()["status"] == "ok"
        assert predict(2) == [("champion", 1)] * 2
    assert app.predictor.own.counts()["failed"] == 2
    assert [r.getMessage() for r in caplog.records] == [
        "A tenant's version is broken, the champion answers instead. Version 7 raised InvalidArgument while predicting."
    ], "told once, without a value or a stack"
    assert caplog.records[0].exc_info is None


def test_one_of_another_schema_fails_no_request(make_app):
    app = make_app()
    kinds = {"amount": "number", "visits": "boolean"}  # the champion's visits are a number
    release(app, 2, {"acme": {"version": 7, **app.make_bundle(app.bundles / "7", kinds=kinds)}})
    assert arms_of(app.client("POST", "/predict", {"instances": [ROW]})) == [("champion", 1)]
    assert app.predictor.own.counts()["failed"] == 1


def test_a_wrong_value_that_only_it_can_judge_is_the_requests_own_fault(make_app):
    app = make_app(serve={"extra_fields": ExtraFields.ignore})
    narrow = {"version": 2, **app.make_bundle(app.bundles / "2", kinds={"amount": "number"})}
    wide = {"version": 7, **app.make_bundle(app.bundles / "7", kinds={"amount": "number", "visits": "integer"})}
    app.predictor.release({"sequence": 2, "champion": narrow, "tenants": {"acme": wide}})
    wrong = app.client("POST", "/predict", {"instances": [{"amount": 1.0, "visits": "many"}]})
    assert (wrong.status, "'visits'" in wrong.json["detail"]) == (422, True)
    assert arms_of(app.client("POST", "/predict", {"instances": [ROW]})) == [("tenant", 7)]
    assert app.predictor.health()["status"] == "ok"


def test_a_broken_successor_replaces_nothing_it_should_not(make_app):
    app = make_app()
    tenants = named(app, 2)
    release(app, 2, tenants)
    answers(app, "t10")
    broken = {"version": 20, **app.make_bundle(app.bundles / "20", seed=20)} | {"uri": str(app.bundles / "nowhere")}
    release(app, 3, tenants | {"t10": broken})
    assert answers(app, "t10", "t11") == [("champion", 1), ("tenant", 11)]
    release(app, 4, tenants)
    assert answers(app, "t10") == [("tenant", 10)]
    assert app.predictor.health()["problem"] is None


def test_the_successor_of_one_in_use_is_loaded_before_the_switch(make_app):
    app = make_app()
    tenants = named(app, 2)
    release(app, 2, tenants)
    answers(app, "t10")
    release(app, 3, {tenant: {"version": 20, **app.make_bundle(app.bundles / "20", seed=20)} for tenant in tenants})
    assert app.predictor.own.counts()["loaded"] == 2
    assert answers(app, "t10") == [("tenant", 20)]
    assert app.predictor.own.counts()["loaded"] == 2


@pytest.mark.parametrize("tenant", ["acme", "umbrella"])
def test_it_reads_the_features_that_it_was_trained_on(make_app, tenant):
    app = make_app(views=("shop__money",))
    store = OnlineStore(app.spec.storage.online_url)
    for generation, amount in (("h1", 1.0), ("h2", 2.0)):
        view = OnlineView("shop__money", f"shop__money@{generation}", None, dict.fromkeys(ROW, generation))
        store.write(view.rows, [(tenant, "c1", time_of(app), {**ROW, "amount": amount})])
        publish(store, OnlineService("shop", generation, (view,)))
    own = {"version": 10, **app.make_bundle(app.bundles / "10", seed=3), "features": "h2"}
    champion = {"version": 1, **app.arm, "features": "h1"}
    app.predictor.release({"sequence": 2, "champion": champion, "tenants": {"acme": own}})
    request = PredictRequest(instances=[{}], entities=["c1"], by_entity=True)
    asyncio.run(ask(app, tenant, request))
    (record,) = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    expected = {"acme": ("tenant", 2.0), "umbrella": ("champion", 1.0)}[tenant]
    assert (record["arm"], record["inputs"]["amount"]) == expected


def time_of(app):
    from datetime import UTC, datetime

    return datetime.fromtimestamp(app.clock.now, UTC)
