"""The site's durable memory."""

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from raysaas_edge.buffer import Buffer
from raysaas_edge.predict import LocalDecision, Predictor

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _decision(name: str, usage: float = 1.0) -> LocalDecision:
    inputs = {"usage": usage, "plan": "pro"}
    return LocalDecision(id=name, inputs=inputs, score=0.5, label="Yes", version="v", time=NOW)


def test_what_was_added_is_there_after_opening_again(tmp_path: Path) -> None:
    first = Buffer(tmp_path / "b.db")
    first.add_decisions([_decision("d1"), _decision("d2")])
    first.add_outcomes([("d1", "Yes", NOW)])
    first.close()
    again = Buffer(tmp_path / "b.db")
    assert again.counts()["decisions_held"] == 2
    assert [(q.decision_id, q.label, q.observed_at) for q in again.queued(10)] == [("d1", "Yes", NOW.isoformat())]


def test_kill_minus_nine_loses_nothing_that_was_added(tmp_path: Path) -> None:
    code = (
        "import sys, os, signal; from datetime import datetime, UTC; from pathlib import Path\n"
        "from raysaas_edge.buffer import Buffer\n"
        f"b = Buffer(Path({str(tmp_path / 'b.db')!r}))\n"
        "b.add_outcomes([(f'd{i}', 'Yes', datetime.now(UTC)) for i in range(50)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    source = str(Path(sys.modules["raysaas_edge"].__file__ or "").parents[1])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": source}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(Buffer(tmp_path / "b.db").queued(100)) == 50


@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 10))
def test_the_bound_holds_and_every_loss_is_counted(batches: list[int], max_rows: int) -> None:
    buffer = _memory(max_rows)
    names = [f"d{i}" for i in range(sum(batches))]
    start = 0
    for size in batches:
        part = names[start : start + size]
        start += size
        buffer.add_decisions([_decision(name) for name in part])
        buffer.add_outcomes([(name, "Yes", NOW) for name in part])
    counts = buffer.counts()
    assert counts["decisions_held"] == min(max_rows, len(names))
    assert counts["decisions_held"] + counts["decisions_dropped"] == counts["decisions_added"] == len(names)
    assert [q.decision_id for q in buffer.queued(100)] == names[-max_rows:]
    assert counts["outcomes_dropped"] == max(0, len(names) - max_rows)
    buffer.close()


def _memory(max_rows: int) -> Buffer:
    return Buffer(Path(":memory:"), max_rows)


def test_confirmed_outcomes_make_room_before_queued_ones() -> None:
    buffer = _memory(3)
    buffer.add_outcomes([(f"d{i}", "Yes", NOW + timedelta(seconds=i)) for i in range(3)])
    buffer.mark(buffer.queued(2)[1:], "sent")
    buffer.add_outcomes([("d3", "No", NOW)])
    assert [q.decision_id for q in buffer.queued(10)] == ["d0", "d2", "d3"]
    assert buffer.counts()["outcomes_dropped"] == 0


def test_an_outcome_counts_once_per_decision() -> None:
    buffer = _memory(10)
    buffer.add_outcomes([("d1", "Yes", NOW), ("d1", "No", NOW)])
    assert [q.label for q in buffer.queued(10)] == ["Yes"]
    assert buffer.counts()["outcomes_added"] == 1


def test_export_holds_rows_with_known_outcome_only(tmp_path: Path, toy_bundle: Path) -> None:
    buffer = _memory(10)
    buffer.add_decisions([_decision("d1", 1.5), _decision("d2", 2.5), _decision("d3", 3.5)])
    buffer.add_outcomes([("d1", "Yes", NOW), ("d3", "No", NOW), ("elsewhere", "No", NOW)])
    assert buffer.export(tmp_path / "rows.parquet", Predictor(toy_bundle).bundle.encoder) == 2
    table = pq.read_table(tmp_path / "rows.parquet")
    assert table.to_pylist() == [
        {"usage": 1.5, "plan": "pro", "label": "Yes"},
        {"usage": 3.5, "plan": "pro", "label": "No"},
    ]
