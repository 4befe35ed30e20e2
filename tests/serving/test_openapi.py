"""The OpenAPI document against the door: every route is in it, its examples work, its bounds are the contract's."""

import asyncio
import gzip
import time
import tracemalloc

import jsonschema
import pytest

from raysaas.errors import PayloadTooLarge, TooSlow
from raysaas.serving.body import read_body
from raysaas.tenancy.keys import KeyRing, new_key
from raysaas.use_case import Column, ColumnType, Source

ORDERS = Source(events=True, tenant="account", columns={
    "account": Column(type=ColumnType.text), "day": Column(type=ColumnType.time, required=True),
    "amount": Column(min=2),
})  # fmt: skip
CONTRACT = {
    "amount": Column(min=50), "visits": Column(type=ColumnType.integer, required=True, values=["7", "9"]),
    "plan": Column(type=ColumnType.category, values=["pro"], pattern="[a-z]+"),
}  # fmt: skip


@pytest.fixture
def app(make_app):
    return make_app(sources={"orders": ORDERS}, contract=CONTRACT)


@pytest.fixture
def document(app):
    return app.client("GET", "/openapi.json", key="").json


def resolved(document, schema):
    """``schema`` with the document's components, for a validator."""
    return schema | {"components": document["components"]}


def test_every_route_is_documented_and_nothing_else(app, document):
    door = app.client.door
    kept = {path.replace("{version}", "1") for path in document["paths"]}
    posts, gets = {*door._post, door._infer}, set(door._get) - {"", "/", "/docs", "/openapi.json"}
    versioned = {path.replace("shop", "shop/versions/1") for path in posts | gets if path.startswith("/v2/models/")}
    assert kept == posts | gets | versioned
    for path, calls in document["paths"].items():
        for verb, call in calls.items():
            reply = app.client(verb.upper(), path.replace("{version}", "1"), {}, key="")
            public = call.get("security") == []
            assert str(reply.status) in call["responses"], (verb, path, reply.status)
            assert reply.status == (200 if public else 401)


def test_every_example_works_when_pasted(app, document):
    tried = 0
    for path, calls in document["paths"].items():
        for call in calls.values():
            body = call.get("requestBody", {"content": {}})["content"].get("application/json", {"examples": {}})
            for example in body["examples"].values():
                jsonschema.validate(example["value"], resolved(document, body["schema"]))
                reply = app.client("POST", path.replace("{version}", "1"), example["value"])
                answers = call["responses"][str(reply.status)]["content"]["application/json"]["schema"]
                assert reply.status in (200, 202), (path, reply.json)
                jsonschema.validate(reply.json, resolved(document, answers))
                tried += 1
    assert tried == 5


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"visits": 7}, 200), ({"visits": 9, "amount": 50.0, "plan": None}, 200), ({"visits": 7, "amount": 49.9}, 422),
        ({"visits": 8}, 422), ({"amount": 60}, 422), ({"visits": 7, "plan": "free"}, 422), ({"visits": 7, "x": 1}, 422),
        ({"visits": 7, "amount": "1"}, 422), ({}, 422),
    ],
)  # fmt: skip
def test_schema_and_door_agree_on_a_row(app, document, row, status):
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    valid = jsonschema.Draft202012Validator(resolved(document, schema)).is_valid({"instances": [row]})
    assert valid == (status == 200)
    assert app.client("POST", "/predict", {"instances": [row]}).status == status


def test_a_method_that_a_route_does_not_take_is_405_and_says_which_it_does(app):
    for path, method, allowed in (("/predict", "GET", "POST"), ("/health", "POST", "GET"), ("/drift", "DELETE", "GET")):
        reply = app.client(method, path)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)


def test_a_body_that_does_not_arrive_is_given_up():
    async def drip():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read():
        started = time.monotonic()
        with pytest.raises(TooSlow, match=r"within 0\.2 s"):
            await read_body(drip, b"1000", b"", 10_000, timeout_s=0.2)
        return time.monotonic() - started

    assert asyncio.run(read()) < 2
    assert (TooSlow.http_status, TooSlow.exit_code) == (408, 75)


def test_a_bomb_is_not_unpacked_beyond_the_limit():
    bomb = gzip.compress(b"0" * 50_000_000)

    async def receive():
        return {"type": "http.request", "body": bomb, "more_body": False}

    tracemalloc.start()
    with pytest.raises(PayloadTooLarge):
        asyncio.run(read_body(receive, b"", b"gzip", 100_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_the_time_of_a_lookup_says_nothing_of_the_guess():
    """Guesses with none or nearly all of a key right take as long: digests are compared, not keys."""
    key, digest = new_key()
    row = type("Row", (), {"digest": digest, "tenant": "acme", "scopes": ("predict",), "expires_at": None})
    ring = KeyRing([row] + [type("Row", (), {**vars(row), "digest": new_key()[1]}) for _ in range(1000)])
    guesses = {"near": (key[:-1] + "\0").encode(), "far": b"\0" * len(key)}
    times = {name: [] for name in guesses}
    for _ in range(200):
        for name, guess in guesses.items():
            started = time.perf_counter()
            for _ in range(20):
                ring.access(guess, 0.0)
            times[name].append(time.perf_counter() - started)
    near, far = (sorted(times[name])[50] for name in ("near", "far"))
    assert 0.7 < near / far < 1.4
