"""Predictions that go from the parser to the door at once, over real sockets; all else takes the ordinary way."""

import gzip
import logging
import socket
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from tests.serving.live import live

from raysaas.serving import middleware, wire
from raysaas.stores.journal import pending
from raysaas.tenancy.keys import new_key

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
BODY = orjson.dumps({"instances": [ROW]})


@pytest.fixture
def served(make_app):
    """A door behind uvicorn on a real port. ``ways`` counts who answered; ``room`` is how many the line may take."""
    app, ways = make_app(), Counter()
    door, state = app.client.door, SimpleNamespace(ongoing=0, most=0, room=100)

    async def ordinary(scope: Any, receive: Any, send: Any) -> None:
        ways["asgi"] += scope["type"] == "http"
        await door(scope, receive, send)

    def direct(*request: Any) -> bool:
        ways["line"] += 1
        taken = door.predict(*request)
        if not taken:
            del ways["line"]
        return taken

    def ongoing(change: int) -> None:
        state.ongoing += change
        state.most = max(state.most, state.ongoing)

    wire.connect(wire.Line("/shop/predict", direct, ongoing, lambda: state.ongoing < state.room))
    with live(ordinary) as (server, port):
        yield SimpleNamespace(app=app, port=port, ways=ways, state=state, server=server)
    wire.Wire.line = None
    wire.HTTP_PROTOCOLS["auto"] = "uvicorn.protocols.http.auto:AutoHTTPProtocol"


def request(served, body=BODY, *, path="/predict", method="POST", **headers):
    lines = {"host": "h", "authorization": f"Bearer {served.app.keys['acme']}", "content-length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items() if value is not None)]
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def answers(sock, num):
    """``num`` answers as (status, headers, body)."""
    file, found = sock.makefile("rb"), []
    for _ in range(num):
        status = int(file.readline().split()[1])
        headers = {}
        while line := file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        found.append((status, headers, file.read(int(headers["content-length"]))))
    return found


def talk(served, *parts, num=1, pause_s=0.0):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        for part in parts:
            sock.sendall(part)
            time.sleep(pause_s)
        return answers(sock, num)


def test_a_prediction_takes_the_line_and_says_what_asgi_says(served):
    (line,) = talk(served, request(served))
    served.state.room = 0
    (asgi,) = talk(served, request(served))
    assert served.ways == {"line": 1, "asgi": 1}
    assert line[0] == asgi[0] == 200
    assert line[1].keys() - asgi[1].keys() == {"x-request-id"}, "which Serve gives to those that pass it"
    one, other = (orjson.loads(answer[2])["decisions"][0] for answer in (line, asgi))
    assert one.pop("decision_id") != other.pop("decision_id")
    assert one == other
    assert served.state.ongoing == 0
    journal = pending(served.app.spec.storage.journal, "shop", "decisions")
    assert len(journal) == 2


def test_many_on_one_connection_keep_their_order(served):
    calls = [request(served), request(served, b"", method="GET", path="/health"), request(served, b"{")] * 3
    found = talk(served, b"".join(calls), num=9)
    assert [status for status, _, _ in found] == [200, 200, 400] * 3
    served.ways.clear()
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        for _ in range(3):
            sock.sendall(request(served))
            assert answers(sock, 1)[0][0] == 200
    assert served.ways == {"line": 3}


@pytest.mark.parametrize(
    ("headers", "status", "slug"),
    [({"authorization": None}, 401, "unauthorized"), ({"x_request_timeout_ms": "0"}, 504, "deadline-exceeded"),
     ({"x_request_timeout_ms": "soon"}, 422, "invalid-input"), ({"x_request_timeout_ms": "5000"}, 200, None)],
)  # fmt: skip
def test_refusals_are_problem_documents(served, headers, status, slug):
    ((found, headers, body),) = talk(served, request(served, **headers))
    assert (found, served.ways) == (status, {"line": 1})
    if slug:
        assert headers["content-type"] == "application/problem+json"
        assert orjson.loads(body)["type"].endswith(slug)
        assert not pending(served.app.spec.storage.journal, "shop", "decisions")


@pytest.mark.parametrize(("scope", "status"), [("predict", 200), ("feedback", 403), ("events", 403)])
def test_the_line_asks_for_its_own_scope(served, scope, status):
    key, digest = new_key()
    served.app.ledger.add_key(digest, "umbrella", [scope])
    assert talk(served, request(served, authorization=f"Bearer {key}"))[0][0] == status
    assert served.ways == {"line": 1}


@pytest.mark.parametrize("given", ["client-7 of (acme)", "~" * 128])
@pytest.mark.parametrize("body", [BODY, b"{"])
def test_the_callers_request_id_is_answered(served, body, given):
    assert talk(served, request(served, body, x_request_id=given))[0][1]["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "x" * 129, "caf\u00e9", "a\tb"])
def test_without_a_good_request_id_the_answer_has_its_own(served, given):
    good, refused = (talk(served, request(served, body, x_request_id=given))[0] for body in (BODY, b"{"))
    assert good[1]["x-request-id"] == orjson.loads(good[2])["decisions"][0]["decision_id"]
    assert len(refused[1]["x-request-id"]) == 32
    assert served.ways == {"line": 2}


def test_the_limit_of_a_body_holds_for_small_ones_too(served):
    served.app.spec.serve.max_body_bytes = len(BODY) - 1
    assert talk(served, request(served))[0][0] == 413
    assert served.ways == {"asgi": 1}
    assert not pending(served.app.spec.storage.journal, "shop", "decisions")


@pytest.mark.parametrize("path", ["/innerx/predict", "//inner/predict", "/INNER/predict", "/predict", "/"])
def test_a_path_of_no_use_case_is_not_passed_on(served, path):
    wire.Wire.line = wire.Wire.line._replace(path="/shop/inner/predict")
    raw = request(served, path=path) + request(served, b"", method="GET", path="/inner/health")
    nowhere, passed_on = talk(served, raw, num=2)
    assert (nowhere[0], nowhere[1]["content-type"]) == (404, "application/problem+json")
    assert orjson.loads(nowhere[2])["detail"] == "There is no use case at this path."
    assert (passed_on[0], served.ways) == (404, {"asgi": 1}), "the door's own routes begin without it here"


def test_what_is_no_http_is_refused_as_all_else_is(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX-A : b\r\n\r\n")
        ((status, headers, body),) = answers(sock, 1)
        assert sock.recv(1) == b""
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/problem+json", "close")
    assert (orjson.loads(body)["status"], orjson.loads(body)["type"].rpartition("/")[2]) == (400, "bad-request")


@pytest.mark.parametrize(
    ("body", "headers"),
    [(gzip.compress(BODY), {"content_encoding": "gzip"}), (BODY, {"expect": "100-continue"}),
     (orjson.dumps({"instances": [ROW] * 900}) + b" " * 70_000, {})],
    ids=["packed", "expecting", "large"],
)  # fmt: skip
def test_what_needs_more_takes_the_ordinary_way(served, body, headers):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(request(served, body, **headers))
        if "expect" in headers:
            assert sock.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert answers(sock, 1)[0][0] == 200
    assert served.ways == {"asgi": 1}


@pytest.mark.parametrize(("pause_s", "way"), [(0.0, "line"), (0.2, "asgi")])
def test_a_body_in_parts_is_given_a_moment(served, pause_s, way):
    whole = request(served)
    assert talk(served, whole[:-9], whole[-9:], pause_s=pause_s)[0][0] == 200
    assert served.ways == {way: 1}


def test_chunked_bodies_and_closed_connections(served):
    chunked = request(served, b"", content_length=None, transfer_encoding="chunked")
    chunked += b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(chunked)
        assert answers(sock, 1)[0][0] == 200
        sock.sendall(request(served, connection="close"))
        ((status, headers, _),) = answers(sock, 1)
        assert (status, headers["connection"], sock.recv(1)) == (200, "close", b"")
    assert served.ways == {"line": 2}


def test_a_client_that_leaves_is_decided_all_the_same(served):
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port)) as sock:
            sock.sendall(request(served))
    while served.ways.total() < 20:
        time.sleep(0.01)
    assert talk(served, request(served))[0][0] == 200
    assert served.state.ongoing == 0
    assert len(pending(served.app.spec.storage.journal, "shop", "decisions")) == 21


def test_a_stopping_server_answers_what_it_took(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as sock:
        sock.sendall(request(served)[:-9])
        time.sleep(0.01)
        served.server.should_exit = True
        time.sleep(0.3)
        sock.sendall(BODY[-9:])
        assert answers(sock, 1)[0][0] == 200
        assert sock.recv(1) == b""


def test_a_ray_that_changed_is_left_to_its_own_way(make_app, caplog):
    changed = SimpleNamespace(_user_callable_asgi_app=make_app().client.door)

    async def entrance(self: Any) -> None: ...

    app = SimpleNamespace(_app=entrance.__get__(changed))
    with caplog.at_level(logging.WARNING):
        assert not middleware.connect(app)
    assert "Ray has changed" in caplog.text
    assert wire.Wire.line is None
    assert not middleware.connect(entrance)
