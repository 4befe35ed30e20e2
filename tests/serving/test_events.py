"""Events at the real door: checked by name, the sender's own only, journaled before they are acknowledged."""

import json
import os
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import RaysaasError
from raysaas.records import Task
from raysaas.serving.events import example_of, parse_events
from raysaas.serving.spec import AppSpec, EventSource
from raysaas.settings import Serve, Storage
from raysaas.stores.journal import complete, tail
from raysaas.use_case import Column, ColumnType, Source

ORDERS = Source(
    events=True, tenant="account", entity="user_id", time="at",
    columns={
        "account": Column(type=ColumnType.text, required=True), "user_id": Column(type=ColumnType.text, required=True),
        "at": Column(type=ColumnType.time, column="happened at"), "amount": Column(min=2, required=True),
        "plan": Column(type=ColumnType.category, values=["free", "pro"]), "n": Column(type=ColumnType.integer, max=0),
    },
    derive={"night": "hour < 6"},
)  # fmt: skip
EVENT = {"user": {"id": "u1"}, "happened at": "2026-01-01T00:00:00Z", "amount": 3.5, "hour": 4}
PATH = "/events/orders"
SCHEMA = EventSource.of(ORDERS)


def journaled(app, source="orders"):
    return tail(app.spec.storage.journal, "shop", f"events__{source}", {})[0]


def test_events_are_journaled_flat_with_tenant_and_time_of_receipt(make_app):
    app = make_app(sources={"orders": ORDERS})
    reply = app.client("POST", PATH, {"events": [EVENT, EVENT | {"account": "acme", "plan": None}]})
    assert (reply.status, reply.json) == (202, {"accepted": 2})
    came = datetime.fromtimestamp(app.clock.now, UTC).isoformat()
    row = {"user.id": "u1", "happened at": "2026-01-01T00:00:00Z", "amount": 3.5, "hour": 4, "account": "acme",
           "__tenant": "acme", "__known_at": came}  # fmt: skip
    assert journaled(app) == [row, row | {"plan": None}]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b"{", 400, "JSON"), ([], 422, "object"), ({}, 422, "'events' must be a list"), ({"events": []}, 422, "1 to"),
        ({"events": [EVENT] * 1001}, 422, "1 to 1000"), ({"events": [EVENT], "source": "x"}, 422, "source"),
        ({"events": [EVENT, 5]}, 422, "events[1]"), ({"events": [EVENT | {"amuont": 1}]}, 422, "'amuont'"),
        ({"events": [EVENT | {"user": {"id": "u", "name": {"x": "secret"}}}]}, 422, "'user.name.x'"),
        ({"events": [EVENT | {"plan": ["secret"]}]}, 422, "events[0].plan must be a single value"),
        ({"events": [EVENT | {"amount": None}]}, 422, "no 'amount'"),
        ({"events": [{"amount": 1}]}, 422, "no 'user_id'"),
        ({"events": [EVENT, EVENT | {"account": "secret"}]}, 403, "events[1].account is another tenant's"),
        ({"events": [EVENT | {"account": 7}]}, 403, "another tenant's"),
        ({"events": [EVENT | {"__tenant": "secret"}]}, 422, "'__tenant'"),
        ({"events": [EVENT | {"__known_at": "2020-01-01"}]}, 422, "'__known_at'"),
        (b'{"events": [{"plan": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}]}", 422, "single value"),
        (b'{"events": [{"plan": "\\ud800"}]}', 400, "JSON"),
    ],
)  # fmt: skip
def test_bad_events_are_refused_by_name_and_leave_nothing(make_app, body, status, named):
    app = make_app(sources={"orders": ORDERS})
    reply = app.client("POST", PATH, body)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert named in reply.json["detail"]
    assert "secret" not in reply.json["detail"]
    assert journaled(app) == []


@pytest.mark.parametrize(
    ("method", "path", "key", "status", "said"),
    [
        ("POST", PATH, "umbrella", 403, "scope 'events'"), ("POST", PATH, "", 401, "Authorization"),
        ("POST", "/events/plans", "acme", 404, "those that do are orders, visits."), ("GET", PATH, "acme", 405, "POST"),
        ("POST", "/events/", "acme", 404, "orders, visits"),
        ("POST", "/events/../orders", "acme", 404, "orders, visits"),
    ],
)  # fmt: skip
def test_door_denies_by_default(make_app, method, path, key, status, said):
    app = make_app(sources={"orders": ORDERS, "visits": ORDERS})
    reply = app.client(method, path, {"events": [EVENT]}, key=app.keys.get(key, key))
    assert (reply.status, reply.json["status"]) == (status, status)
    assert said in reply.json["detail"]
    assert journaled(app) == []
    assert "No source here" in make_app().client("POST", PATH, {}).json["detail"]


def test_quota_counts_events_as_any_request(make_app):
    app = make_app(serve={"quota_rps": 0.5, "quota_burst": 2}, sources={"orders": ORDERS})
    assert [app.client("POST", PATH, {"events": [EVENT]}).status for _ in range(3)] == [202, 202, 429]


def test_full_disk_is_503_and_nothing_is_acknowledged(make_app, monkeypatch):
    app = make_app(sources={"orders": ORDERS})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        reply = app.client("POST", PATH, {"events": [EVENT, EVENT]})
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (503, "unavailable")
    assert app.client("POST", PATH, {"events": [EVENT]}).status == 202
    assert len(journaled(app)) == 1


def test_segments_of_events_close_within_seconds(make_app, monkeypatch):
    app = make_app(sources={"orders": ORDERS})
    app.client("POST", PATH, {"events": [EVENT]})
    (journal,) = app.predictor.events.journals
    assert complete(app.spec.storage.journal, "shop", "events__orders") == []
    monkeypatch.setattr(journal, "_clock", lambda: journal._opened + 1.0)
    app.predictor.tick()
    assert len(complete(app.spec.storage.journal, "shop", "events__orders")) == 1


def test_documented_example_is_taken(make_app):
    app = make_app(sources={"orders": ORDERS})
    call = app.client("GET", "/openapi.json", key="").json["paths"][PATH]["post"]
    assert "202" in call["responses"]
    shown = call["requestBody"]["content"]["application/json"]
    assert app.client("POST", PATH, shown["examples"]["event"]["value"]).status == 202
    assert "account" not in shown["examples"]["event"]["value"]["events"][0], "the key says whose it is"


def test_examples_keep_the_contract():
    assert [example_of(column) for column in ORDERS.columns.values()] == [
        "abc", "abc", "2026-01-31T12:00:00Z", 2, "free", 0
    ]  # fmt: skip
    assert example_of(Column(values=["2"])) == 2.0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
)


@given(st.dictionaries(st.sampled_from(["user", "user_id", "account", "amount", "plan", "x"]), JSON))
def test_whatever_is_sent_is_refused_or_is_a_flat_row_of_the_sender(event):
    try:
        (row,) = parse_events(json.dumps({"events": [event]}).encode(), SCHEMA, "acme", 10)
    except RaysaasError:
        return
    assert row["account"] == "acme"
    assert not any(isinstance(value, dict | list) for value in row.values())


def test_the_spec_survives_json_and_other_versions(tmp_path):
    spec = AppSpec(
        use_case="shop", task=Task.binary, storage=Storage(home=str(tmp_path)), serve=Serve(), events={"orders": SCHEMA}
    )
    body = json.loads(json.dumps(spec.to_dict()))
    assert AppSpec.from_dict(body) == spec
    body["events"]["orders"]["columns"]["amount"]["of_tomorrow"] = 1
    assert AppSpec.from_dict(body) == spec
    del body["events"]
    assert AppSpec.from_dict(body).events == {}
