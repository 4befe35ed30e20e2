"""Requests that no HTTP client sends: raw bytes to a port, and what comes back."""

import json
import re
import socket
from typing import Any

CHUNKED = "Transfer-Encoding: chunked"
INNER = b"GET /door_test/drift HTTP/1.1\r\nHost: x\r\n\r\n"
LIES = {
    "length and chunks": (["Content-Length: 4", CHUNKED], b"0\r\n\r\n" + INNER, False),
    "two lengths": (["Content-Length: 3"], None, True),
    "signed length": (["Content-Length: +5"], b"{\"a\":", False),
    "negative length": (["Content-Length: -1"], b"{}", False),
    "endless length": (["Content-Length: 99999999999999999999"], b"{}", False),
    "space before colon": (["Content-Length : 3"], None, True),
    "no hexadecimal chunk": ([CHUNKED], b"zz\r\nabc\r\n0\r\n\r\n", False),
    "negative chunk": ([CHUNKED], b"-1\r\nabc\r\n0\r\n\r\n", False),
    "endless chunk": ([CHUNKED], b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n", False),
    "unknown coding": (["Transfer-Encoding: xchunked"], b"0\r\n\r\n" + INNER, False),
    "coding after chunked": (["Transfer-Encoding: chunked, gzip"], b"0\r\n\r\n" + INNER, False),
    "null in a header": (["X-A: a\0b"], None, True),
    "two keys": (["Authorization: Bearer rs_wrong"], None, True),
}  # fmt: skip

_PAGE = (
    "HTTP/1.1 {0}\r\nContent-length: {1}\r\nCache-Control: no-cache\r\nConnection: close\r\n"
    "Content-Type: text/html\r\n\r\n<html><body><h1>{0}</h1>\nYour browser {2}.\n</body></html>\n"
)
# What HAProxy says to that which it cannot read, for which it has no setting; nothing of the request is in it.
BUILT_IN = {
    400: _PAGE.format("400 Bad request", 90, "sent an invalid request").encode(),
    408: _PAGE.format("408 Request Time-out", 110, "didn't send a complete request in time").encode(),
}


def said(port: int, raw: bytes, wait_s: float = 5.0) -> bytes:
    """All that a server answers to ``raw`` until it closes the connection, or is silent for ``wait_s``."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as connection:
        answer = b""
        try:
            connection.sendall(raw)
            while part := connection.recv(65536):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def problem_of(answer: bytes) -> dict[str, Any]:
    """The problem document of the only answer: RFC 9457; the Open Inference Protocol's has its detail as error too."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert statuses(answer), "there is no answer"
    assert b"content-type: application/problem+json" in head.lower(), answer
    problem: dict[str, Any] = json.loads(body)
    assert problem.pop("error", problem["detail"]) == problem["detail"]
    assert problem.keys() == {"type", "title", "status", "detail"}, problem
    assert problem["type"].startswith("https://raysaas.dev/problems/")
    assert [problem["status"]] == statuses(answer)
    return problem
