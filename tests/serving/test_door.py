"""The whole request path in one process, without Ray: real bundles, keys, journal."""

import gzip
import math
import re
from datetime import UTC, datetime
from urllib.parse import urljoin

import orjson
import pytest

from raysaas.models import bundle
from raysaas.records import Task
from raysaas.settings import ExtraFields
from raysaas.stores.journal import tail

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
PREDICT = "/predict"
ID = "0199c82cc5c8" + "0123456789abcdef0123"


def journaled(app, kind="decisions"):
    return tail(app.spec.storage.journal, "shop", kind, {})[0]


def test_prediction_is_the_models_and_is_journaled(make_app):
    app = make_app()
    reply = app.client("POST", PREDICT, {"instances": [ROW, {"Amount (EUR)": 20, "plan": None}]})
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    loaded = bundle.load(app.arm["uri"])
    expected = loaded.predict(loaded.encoder.rows([ROW, {"amount": 20}]))
    decisions = reply.json["decisions"]
    assert [d["score"] for d in decisions] == expected.score.tolist()
    assert [d["label"] for d in decisions] == expected.label
    assert all(d["model_version"] == 1 and d["arm"] == "champion" for d in decisions)
    records = journaled(app)
    assert [r["id"] for r in records] == [d["decision_id"] for d in decisions]
    assert records[0]["inputs"] == {"amount": 3.5, "visits": 2.0, "vip": 1.0, "plan": "pro"}
    assert records[1]["inputs"] == {"amount": 20.0, "visits": None, "vip": None, "plan": None}
    assert (records[0]["tenant"], records[0]["entity"], records[0]["use_case"]) == ("acme", None, "shop")
    assert datetime.fromisoformat(records[0]["time"]).timestamp() == app.clock.now


@pytest.mark.parametrize("task", list(Task))
def test_answer_has_the_shape_of_its_task(make_app, task):
    app = make_app(task)
    (decision,) = app.client("POST", PREDICT, {"instances": [ROW]}).json["decisions"]
    assert set(decision) - {"scores"} == {"decision_id", "score", "label", "model_version", "arm"}
    if task is Task.multiclass:
        assert decision["scores"].keys() == {"a", "b", "c"}
        assert math.isclose(sum(decision["scores"].values()), 1, rel_tol=1e-5)
        assert decision["label"] == max(decision["scores"], key=decision["scores"].get)
    assert (decision["label"] is None) == (task is Task.regression)
    assert ("scores" in decision) == (task is Task.multiclass)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"", 400, "JSON"), (b"{", 400, "JSON"), (b'{"instances": [{"amount": NaN}]}', 400, "JSON"),
        (b'{"instances": [{"amount": 1e400}]}', 400, "JSON"), (b"[1]", 422, "object"), ({}, 422, "instances"),
        ({"instances": {}}, 422, "instances"), ({"instances": []}, 422, "1 to"),
        ({"instances": [1]}, 422, "instances[0]"),
        ({"instances": [ROW], "arm": "challenger"}, 422, "arm"), ({"instances": [{"amuont": 1}]}, 422, "amuont"),
        ({"instances": [ROW, {"amount": "x"}]}, 422, "amount"), ({"instances": [{"visits": 1.5}]}, 422, "visits"),
        ({"instances": [{"amount": True}]}, 422, "amount"), ({"instances": [{"plan": 3}]}, 422, "plan"),
        ({"instances": [{"amount": [1]}]}, 422, "amount"), ({"entities": [5]}, 422, "entities[0]"),
        ({"entities": ["a"], "instances": [ROW, ROW]}, 422, "entities"), ({"entities": ["nobody"]}, 422, "entities[0]"),
        ({"instances": [ROW] * 1001}, 422, "1 to 1000"),
    ],
)  # fmt: skip
def test_bad_request_is_refused_by_name_and_leaves_nothing(make_app, body, status, named):
    app = make_app()
    reply = app.client("POST", PREDICT, body)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert reply.json["type"].startswith("https://raysaas.dev/problems/")
    assert named in reply.json["detail"]
    assert journaled(app) == []


@pytest.mark.parametrize(
    ("row", "inputs"),
    [
        ({"amount": 1e308}, {"amount": 1e308}),
        ({"amount": -1.7976931348623157e308}, {"amount": -1.7976931348623157e308}),
        ({"amount": -0.0}, {"amount": -0.0}), ({"amount": 5e-324}, {"amount": 5e-324}),
        ({"visits": 2**53 + 1}, {"visits": 2.0**53}), ({"visits": -(2**63)}, {"visits": -(2.0**63)}),
        ({"visits": 2**64 - 1}, {"visits": 2.0**64}), ({"visits": 3.0}, {"visits": 3.0}),
        ({"amount": None}, {}), ({"vip": 1}, {"vip": 1.0}),
        ({"plan": ""}, {"plan": ""}), ({"plan": "é\u202e\u0000\U0001f600"}, {"plan": "é\u202e\u0000\U0001f600"}),
    ],
)  # fmt: skip
def test_what_json_can_say_is_what_is_journaled(make_app, row, inputs):
    app = make_app()
    assert app.client("POST", PREDICT, {"instances": [{"visits": 0, **row}]}).status == 200
    blank = dict.fromkeys(ROW) | {"visits": 0.0}
    (record,) = journaled(app)
    assert repr(record["inputs"]) == repr(blank | inputs), "to the sign of a zero"


@pytest.mark.parametrize("policy", ["refuse", "ignore"])
def test_extra_fields_are_refused_or_ignored_as_conf_says(make_app, policy):
    app = make_app(serve={"extra_fields": ExtraFields(policy)})
    reply = app.client("POST", PREDICT, {"instances": [ROW | {"colour": "red", "x": {"y": [1]}}]})
    assert reply.status == (200 if policy == "ignore" else 422)
    assert [record["inputs"].keys() for record in journaled(app)] == ([ROW.keys()] if policy == "ignore" else [])


def test_large_and_odd_values_are_answered(make_app):
    app = make_app()
    row = {"amount": -0.0, "visits": 2**63 - 1, "vip": None, "plan": "プラン\u0000\U0001f600"}
    reply = app.client("POST", PREDICT, {"instances": [row, {"amount": 1e308}, {"amount": -1e308}]})
    assert reply.status == 200
    assert all(0 <= d["score"] <= 1 for d in reply.json["decisions"])
    assert journaled(app)[0]["inputs"]["plan"] == row["plan"]


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "slug"),
    [
        ("POST", PREDICT, "", 401, "unauthorized"), ("POST", PREDICT, "rs_wrong", 401, "unauthorized"),
        ("POST", "/feedback", "umbrella", 403, "forbidden"), ("GET", "/drift", "", 401, "unauthorized"),
        ("POST", "/v2/models/shop/infer", "", 401, "unauthorized"), ("GET", "/v2/models/shop", "", 401, "unauthorized"),
        ("GET", PREDICT, "acme", 405, "method-not-allowed"), ("POST", "/health", "acme", 405, "method-not-allowed"),
        ("GET", "/../health", "acme", 404, "not-found"), ("POST", "/predict/", "acme", 404, "not-found"),
        ("POST", "", "acme", 405, "method-not-allowed"),
        ("POST", "/PREDICT", "acme", 404, "not-found"),
    ],
)  # fmt: skip
def test_door_denies_by_default(make_app, method, path, key, status, slug):
    app = make_app()
    reply = app.client(method, path, {"instances": [ROW]}, key=app.keys.get(key, key))
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (status, slug)
    assert reply.json["status"] == status
    assert ("error" in reply.json) == path.startswith("/v2/"), "the detail is said twice only where a standard asks"
    assert journaled(app) == []


def test_admin_key_opens_every_scope(make_app):
    app = make_app()
    assert app.client("GET", "/drift", key=app.keys["root"]).json == {"reports": []}
    assert app.client("POST", PREDICT, {"instances": [ROW]}, key=app.keys["root"]).status == 200


def test_key_added_and_expired_later_is_noticed(make_app):
    from raysaas.tenancy.keys import new_key

    app = make_app()
    key, digest = new_key()
    body = {"instances": [ROW]}
    assert app.client("POST", PREDICT, body, key=key).status == 401
    app.ledger.add_key(digest, "late", ["predict"], datetime.fromtimestamp(app.clock.now + 60, UTC))
    assert app.client("POST", PREDICT, body, key=key).status == 401  # at most one look at the ledger a second
    app.clock.now += 1.1
    assert app.client("POST", PREDICT, body, key=key).status == 200
    assert journaled(app)[0]["tenant"] == "late"
    app.clock.now += 60
    assert app.client("POST", PREDICT, body, key=key).status == 401


def test_without_the_ledger_known_keys_open_and_others_are_asked_to_return(make_app):
    import sqlite3

    app, body = make_app(), {"instances": [ROW]}
    with sqlite3.connect(app.spec.storage.ledger_url.removeprefix("sqlite:///")) as ledger:
        ledger.execute("ALTER TABLE api_keys RENAME TO away")
    assert app.client("POST", PREDICT, body).status == 200
    assert app.client("POST", PREDICT, body, key="rs_new").status == 503
    with sqlite3.connect(app.spec.storage.ledger_url.removeprefix("sqlite:///")) as ledger:
        ledger.execute("ALTER TABLE away RENAME TO api_keys")
    app.clock.now += 1
    assert app.client("POST", PREDICT, body, key="rs_new").status == 401


def test_quota_is_per_tenant_and_says_when_to_return(make_app):
    app = make_app(serve={"quota_rps": 0.5, "quota_burst": 3})
    body = {"instances": [ROW]}
    assert [app.client("POST", PREDICT, body).status for _ in range(4)] == [200, 200, 200, 429]
    assert app.client("POST", PREDICT, body).headers["retry-after"] == "2"
    assert app.client("POST", PREDICT, body, key=app.keys["umbrella"]).status == 200
    app.clock.now += 2
    assert app.client("POST", PREDICT, body).status == 200


def test_oversized_body_is_refused_before_it_is_read(make_app):
    app = make_app(serve={"max_body_bytes": 1000})
    said = app.client("POST", PREDICT, b"x" * 1001)
    assert (said.status, app.client.received) == (413, 0)
    streamed = app.client("POST", PREDICT, chunks=[b"x" * 600] * 50)
    assert (streamed.status, app.client.received) == (413, 2)
    bomb = gzip.compress(b"0" * 10_000_000)
    packed = app.client("POST", PREDICT, chunks=[bomb[:900]], headers={"content-encoding": "gzip"})
    assert packed.status == 413
    assert packed.json["type"].endswith("/payload-too-large")


def test_body_may_come_in_parts_and_packed(make_app):
    app = make_app()
    raw = orjson.dumps({"instances": [ROW]})
    assert app.client("POST", PREDICT, chunks=[raw[:5], raw[5:9], raw[9:]]).status == 200
    packed = gzip.compress(raw)
    assert app.client("POST", PREDICT, packed, headers={"content-encoding": "gzip"}).status == 200
    assert app.client("POST", PREDICT, packed[:-9], headers={"content-encoding": "gzip"}).status == 400
    assert app.client("POST", PREDICT, raw, headers={"content-encoding": "br"}).status == 400


def test_entities_are_read_online_and_given_values_win(make_app):
    from raysaas.stores.online import OnlineStore

    app = make_app(views=("shop__money", "shop__who"))
    store = OnlineStore(app.spec.storage.online_url)
    now = datetime.now(UTC)
    store.write("shop__money", [("acme", "c1", now, {"amount": 7.0, "visits": 3, "unused": 1})])
    store.write("shop__who", [("acme", "c1", now, {"plan": "free", "vip": float("nan")})])
    store.write("shop__who", [("umbrella", "c2", now, {"plan": "free"})])
    reply = app.client("POST", PREDICT, {"entities": ["c1", "c1"], "instances": [{}, {"Amount (EUR)": 1, "vip": True}]})
    assert reply.status == 200
    first, second = journaled(app)
    assert first["inputs"] == {"amount": 7.0, "visits": 3.0, "vip": None, "plan": "free"}
    assert second["inputs"] == {"amount": 1.0, "visits": 3.0, "vip": 1.0, "plan": "free"}
    assert first["entity"] == "c1"
    assert app.client("POST", PREDICT, {"entities": ["c2"]}).status == 422  # another tenant's entity


def test_feedback_is_journaled_in_the_models_words(make_app):
    app = make_app()
    decisions = app.client("POST", PREDICT, {"instances": [ROW] * 3}).json["decisions"]
    told = [{"label": True}, {"label": 0}, {"label": "Yes", "observed_at": "2026-01-02T03:04:05+01:00"}]
    outcomes = [{"decision_id": d["decision_id"], **rest} for d, rest in zip(decisions, told, strict=True)]
    reply = app.client("POST", "/feedback", {"outcomes": outcomes})
    assert (reply.status, reply.json) == (200, {"accepted": 3})
    records = journaled(app, "outcomes")
    assert [r["decision_id"] for r in records] == [d["decision_id"] for d in decisions]
    assert [r["label"] for r in records] == ["Yes", "No", "Yes"]
    assert records[2]["observed_at"] == "2026-01-02T02:04:05+00:00"
    assert {r["tenant"] for r in records} == {"acme"}


@pytest.mark.parametrize(
    ("outcome", "named"),
    [
        ({"label": True}, "decision_id"), ({"decision_id": ID}, "label"),
        ({"decision_id": ID, "label": "maybe"}, "outcomes[0].label"),
        ({"decision_id": ID, "label": "Yes", "observed_at": "soon"}, "observed_at"),
        ({"decision_id": ID, "label": "Yes", "when": 1}, "when"), ({"decision_id": 4, "label": "Yes"}, "decision_id"),
        ({"decision_id": ID, "label": "Yes", "observed_at": 5}, "observed_at"), (7, "outcomes[0]"),
    ],
)  # fmt: skip
def test_bad_feedback_is_refused_by_name(make_app, outcome, named):
    app = make_app()
    reply = app.client("POST", "/feedback", {"outcomes": [outcome]})
    assert reply.status == 422
    assert named in reply.json["detail"]
    assert "maybe" not in reply.json["detail"], "a refusal never repeats what was sent"
    assert journaled(app, "outcomes") == []


@pytest.mark.parametrize(
    "wrong", ["x", "", "maybe" * 50, ID[:-1], ID + "0", ID.upper(), ID + "\n", "g" + ID[1:], "٣" * 32]
)
def test_feedback_for_an_id_that_no_decision_has_is_refused(make_app, wrong):
    app = make_app()
    good = {"decision_id": ID, "label": "Yes"}
    reply = app.client("POST", "/feedback", {"outcomes": [good, good | {"decision_id": wrong}]})
    assert reply.status == 422
    assert reply.json["detail"].startswith("outcomes[1].decision_id")
    assert len(wrong) < 2 or wrong not in reply.body.decode()
    assert journaled(app, "outcomes") == []


def test_full_disk_is_503_without_an_answer_and_heals(make_app, monkeypatch):
    import os

    app = make_app()
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
    reply = app.client("POST", PREDICT, {"instances": [ROW]})
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (503, "unavailable")
    monkeypatch.undo()
    good = app.client("POST", PREDICT, {"instances": [ROW]})
    assert [r["id"] for r in journaled(app)] == [good.json["decisions"][0]["decision_id"]]


def test_bug_leaks_nothing(make_app, monkeypatch, caplog):
    app = make_app()
    monkeypatch.setattr(app.predictor._lookup, "rows", lambda *_, **__: 1 / 0)
    reply = app.client("POST", PREDICT, {"instances": [ROW]})
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (500, "internal")
    assert "division" not in reply.body.decode()
    assert "ZeroDivisionError" in caplog.text


def examples(app, path):
    """The request bodies that the documentation shows for a route, by name."""
    document = app.client("GET", "/openapi.json", key="").json
    shown = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
    return {name: example["value"] for name, example in shown.items()}


def test_documentation_is_real_and_its_examples_work(make_app):
    app = make_app()
    document = app.client("GET", "/openapi.json", key="").json
    assert document["components"]["schemas"]["Instance"]["properties"].keys() == ROW.keys()
    shown = {path: examples(app, path) for path in ("/predict", "/feedback")}
    assert {path: list(bodies) for path, bodies in shown.items()} == {
        "/predict": ["instances"],
        "/feedback": ["outcome"],
    }
    for path, (body,) in ((path, bodies.values()) for path, bodies in shown.items()):
        assert app.client("POST", path, body).status == 200


def test_documented_pattern_of_an_id_is_that_of_real_ones(make_app):
    app = make_app()
    (decision,) = app.client("POST", PREDICT, {"instances": [ROW]}).json["decisions"]
    paths = app.client("GET", "/openapi.json", key="").json["paths"]
    answer = paths["/predict"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    request = paths["/feedback"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for schema, name in ((answer, "decisions"), (request, "outcomes")):
        pattern = schema["properties"][name]["items"]["properties"]["decision_id"]["pattern"]
        assert re.search(pattern, decision["decision_id"])


def test_entities_are_documented_once_any_is_online_and_none_is_named(make_app):
    from raysaas.stores.online import OnlineStore

    app = make_app(views=("shop__money", "shop__who"))
    assert "entities" not in examples(app, "/predict"), "an example that can only be refused is none"
    values = {"amount": 7.0, "visits": 3}
    OnlineStore(app.spec.storage.online_url).write("shop__who", [("acme", "secret-c1", datetime.now(UTC), values)])
    (entity,) = examples(app, "/predict")["entities"]["entities"]
    assert app.client("POST", PREDICT, {"entities": [entity]}).json["detail"].startswith("entities[0]")
    assert b"secret" not in app.client("GET", "/openapi.json", key="").body, "the page is public, entities are not"


def test_page_stands_alone(make_app):
    page = make_app().client("GET", "/docs", key="")
    text = page.body.decode()
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; img-src data:;"), "a browser refuses the icon without the second"
    assert not re.search(r"""https?:|src=|url\(|href="/""", text), "nothing is loaded but its own OpenAPI document"
    assert '<link rel="icon" href="data:,">' in text, "browsers ask for /favicon.ico, which no use case has"
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("outside", ["", "/behind/a-proxy"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_bare_prefix_leads_to_the_page(make_app, method, outside, slash):
    reply = make_app().client(method, slash, key="")
    assert reply.status == 307
    assert urljoin(f"http://host{outside}/shop{slash}", reply.headers["location"]) == f"http://host{outside}/shop/docs"


def test_open_inference_protocol(make_app):
    app = make_app()
    assert app.client("GET", "/v2/health/ready", key="").status == 200
    described = app.client("GET", "/v2/models/shop").json
    assert {i["name"]: i["datatype"] for i in described["inputs"]} == {
        "amount": "FP64", "visits": "INT64", "vip": "BOOL", "plan": "BYTES"}  # fmt: skip
    tensors = [
        {"name": name, "shape": [2, 1], "datatype": "FP64", "data": [value, value]} for name, value in ROW.items()
    ]
    reply = app.client("POST", "/v2/models/shop/infer", {"id": "q1", "inputs": tensors}).json
    outputs = {o["name"]: o["data"] for o in reply["outputs"]}
    assert reply["id"] == "q1"
    assert outputs["decision_id"] == [r["id"] for r in journaled(app)]
    assert outputs["score"] == [r["score"] for r in journaled(app)]
    bad = app.client("POST", "/v2/models/shop/infer", {"inputs": [{**tensors[0], "shape": [3]}]})
    assert (bad.status, "amount" in bad.json["error"], bad.json["detail"]) == (422, True, bad.json["error"])
