"""Slow bodies of one tenant over real sockets: they take a part of a replica's places, and nobody else's."""

import socket
import time
from types import SimpleNamespace

import orjson
import pytest
from tests.serving.live import live

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
BODY = orjson.dumps({"instances": [ROW]})


@pytest.fixture
def served(make_app):
    """A replica's door behind uvicorn, with places for 8 requests."""
    app = make_app(serve={"max_ongoing_requests": 8})
    with live(app.client.door) as (_, port):
        yield SimpleNamespace(keys=app.keys, port=port)


def begun(served, tenant):
    """A request whose last byte is still missing."""
    sock = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    lines = ["POST /predict HTTP/1.1", "host: h", f"content-length: {len(BODY)}"]
    sock.sendall("\r\n".join([*lines, f"authorization: Bearer {served.keys[tenant]}", "", ""]).encode() + BODY[:-1])
    time.sleep(0.05)
    return sock


def status(sock):
    return int(sock.makefile("rb").readline().split()[1])


def finished(sock):
    sock.sendall(BODY[-1:])
    return status(sock)


def test_one_tenant_gets_a_part_of_the_places_and_each_is_free_again_when_its_body_came_or_its_client_left(served):
    first, second = begun(served, "acme"), begun(served, "acme")
    third = begun(served, "acme")
    answer = third.recv(4096)
    assert b" 429 " in answer.split(b"\r\n")[0]
    assert b"retry-after: 1" in answer
    assert b"2 bodies of this tenant" in answer
    assert finished(begun(served, "umbrella")) == 200, "another tenant has places of its own"
    assert finished(first) == 200
    fourth = begun(served, "acme")
    assert status(begun(served, "acme")) == 429
    second.close()
    time.sleep(0.05)
    assert finished(begun(served, "acme")) == 200
    assert finished(fourth) == 200
