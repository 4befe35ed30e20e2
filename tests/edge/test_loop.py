"""The agent's life in a thread: files in, answers out, wrong files aside."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raysaas_edge.agent import Agent
from raysaas_edge.config import EdgeConfig
from raysaas_edge.loop import run, take_inbox


def _config(home: Path, source: str) -> EdgeConfig:
    return EdgeConfig(site="s", use_case="churn", home=home, bundle=source, poll_s=0.2)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Start the loop on ``tmp_path/home`` with a bundle that appears later."""
    stop, threads = threading.Event(), list[threading.Thread]()

    def start() -> None:
        # SQLite connections stay in the thread that made them.
        def live() -> None:
            run(Agent(_config(tmp_path / "home", str(tmp_path / "bundle"))), stop)

        threads.append(threading.Thread(target=live))
        threads[0].start()

    yield start
    stop.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def _wait(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline, "nothing happened within 20 s"
        time.sleep(0.02)


def test_rows_wait_for_the_bundle_and_are_then_answered(
    tmp_path: Path, running: Callable[[], None], make_bundle: Callable[..., str]
) -> None:
    inbox, outbox = tmp_path / "home" / "inbox", tmp_path / "home" / "outbox"
    inbox.mkdir(parents=True)
    (inbox / "a.rows.jsonl").write_text('{"usage": 1.0, "plan": "pro"}\n{"usage": 2.0}\n')
    running()
    _wait(outbox.exists)
    time.sleep(0.5)
    assert (inbox / "a.rows.jsonl").exists()
    make_bundle(tmp_path / "bundle")
    _wait((outbox / "a.decisions.jsonl").exists)
    decisions = [json.loads(line) for line in (outbox / "a.decisions.jsonl").read_text().splitlines()]
    assert len(decisions) == 2
    _wait(lambda: not (inbox / "a.rows.jsonl").exists())


def test_a_wrong_file_goes_aside_with_its_reason_and_the_rest_goes_on(
    tmp_path: Path, make_bundle: Callable[..., str]
) -> None:
    make_bundle(tmp_path / "bundle")
    agent = Agent(_config(tmp_path / "home", str(tmp_path / "bundle")))
    agent.pull()
    inbox = tmp_path / "home" / "inbox"
    inbox.mkdir()
    (inbox / "a.rows.jsonl").write_text('{"usage": "many"}\n')
    (inbox / "b.rows.jsonl").write_text('{"usage": 1}\n')
    (inbox / "c.outcomes.jsonl").write_text('{"decision_id": "d1", "label": "Yes", "observed_at": "2026-01-01"}\n')
    (inbox / "ignored.txt").write_text("hello")
    assert take_inbox(agent) == 3
    refused = tmp_path / "home" / "refused"
    assert "usage" in (refused / "a.rows.jsonl.reason").read_text()
    assert (tmp_path / "home" / "outbox" / "b.decisions.jsonl").exists()
    assert [q.observed_at for q in agent.buffer.queued(5)] == ["2026-01-01T00:00:00+00:00"]
    assert [path.name for path in inbox.iterdir()] == ["ignored.txt"]
