"""Outcomes to the cluster, against a real local HTTP server."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import AccessDenied, Terminal, Unavailable
from raysaas_edge.buffer import Buffer
from raysaas_edge.uplink import Backoff, Uplink

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Peer:
    """A server that answers with the given statuses, then 200; it refuses batches that hold a bad decision."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.bad: set[str] = set()
        self.taken: list[str] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.requests.append((self.path, dict(self.headers), body))
                names = [each["decision_id"] for each in body["outcomes"]]
                status = peer.statuses.pop(0) if peer.statuses else 422 if peer.bad & set(names) else 200
                if status == 200:
                    peer.taken += names
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "7")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    made = Peer()
    yield made
    made.close()


@pytest.fixture
def buffer(tmp_path: Path) -> Buffer:
    made = Buffer(tmp_path / "b.db")
    made.add_outcomes([(f"d{i}", "Yes", NOW) for i in range(7)])
    return made


def _uplink(url: str, slept: list[float] | None = None, batch: int = 3) -> Uplink:
    waits = slept if slept is not None else []
    return Uplink(url, "saas_churn", "secret", "store 17", batch=batch, timeout_s=2.0, sleep=waits.append)


def test_everything_arrives_in_order_with_the_key_and_without_rows(peer: Peer, buffer: Buffer) -> None:
    assert _uplink(peer.url).flush(buffer) == 7
    assert peer.taken == [f"d{i}" for i in range(7)]
    assert buffer.queued(10) == []
    path, headers, body = peer.requests[0]
    assert path == "/saas_churn/feedback"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Raysaas-Site"].startswith("store%2017; ")
    assert "outcomes_queued=7" in headers["Raysaas-Site"]
    assert body == {
        "outcomes": [{"decision_id": f"d{i}", "label": "Yes", "observed_at": NOW.isoformat()} for i in range(3)]
    }


def test_a_lost_network_keeps_the_queue_and_the_next_flush_resumes(peer: Peer, buffer: Buffer) -> None:
    slept: list[float] = []
    with pytest.raises(Unavailable, match="7 stay queued"):
        _uplink("http://127.0.0.1:9", slept).flush(buffer)
    assert len(slept) == 3
    assert len(buffer.queued(10)) == 7
    assert _uplink(peer.url).flush(buffer) == 7


def test_a_break_in_the_middle_sends_only_the_rest_later(peer: Peer, buffer: Buffer) -> None:
    peer.statuses = [200, 503, 503, 503, 503]
    with pytest.raises(Unavailable):
        _uplink(peer.url).flush(buffer)
    assert _uplink(peer.url).flush(buffer) == 4
    assert peer.taken == [f"d{i}" for i in range(7)]


def test_busy_answers_are_tried_again_after_what_the_server_asks(peer: Peer, buffer: Buffer) -> None:
    peer.statuses, slept = [429, 500], list[float]()
    assert _uplink(peer.url, slept).flush(buffer) == 7
    assert slept[0] >= 7.0
    assert len(slept) == 2


def test_one_bad_outcome_does_not_hold_up_the_others(peer: Peer, buffer: Buffer) -> None:
    peer.bad = {"d4"}
    assert _uplink(peer.url, batch=7).flush(buffer) == 6
    assert sorted(peer.taken) == ["d0", "d1", "d2", "d3", "d5", "d6"]
    assert buffer.counts()["outcomes_refused"] == 1
    assert buffer.queued(10) == []


@pytest.mark.parametrize(
    ("status", "error"), [(401, AccessDenied), (403, AccessDenied), (404, Terminal), (301, Terminal)]
)
def test_answers_that_no_retry_changes_stop_at_once(
    peer: Peer, buffer: Buffer, status: int, error: type[Exception]
) -> None:
    peer.statuses = [status]
    with pytest.raises(error):
        _uplink(peer.url).flush(buffer)
    assert len(peer.requests) == 1
    assert len(buffer.queued(10)) == 7


@given(st.integers(0, 30), st.floats(0, 1000))
def test_waits_grow_and_stay_bounded(attempt: int, asked_s: float) -> None:
    wait_s = Backoff(first_s=0.5, most_s=60.0).delay(attempt, asked_s)
    assert min(30.0, 0.25 * 2**attempt) <= wait_s <= 60.0
    assert wait_s >= min(asked_s, 60.0)
