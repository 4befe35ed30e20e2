"""The journal: all or nothing, readable while written, shipped exactly once whoever dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import Unavailable
from raysaas.settings import Storage
from raysaas.stores.journal import Journal, await_closed, drop_taken, pending, ship, tail
from raysaas.stores.tables import Tables


def record(i):
    return {
        "id": f"d{i}", "use_case": "shop", "tenant": "acme", "entity": None, "inputs": {"x": 1.5, "plan": None},
        "version": 1, "arm": "champion", "score": 0.5, "label": "Yes", "time": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip


def ids(records):
    return [r["id"] for r in records]


@pytest.fixture
def tables(tmp_path):
    return Tables(Storage(home=str(tmp_path / "var")))


@settings(max_examples=30)
@given(steps=st.lists(st.sampled_from(["append", "rotate", "tail"]), max_size=30), size=st.integers(200, 2000))
def test_tail_sees_every_record_once_and_in_order(tmp_path_factory, steps, size):
    root = tmp_path_factory.mktemp("journal")
    journal = Journal(root, "shop", "decisions", segment_bytes=size)
    num, seen, offsets = 0, [], {}
    for step in [*steps, "tail"]:
        if step == "append":
            journal.append([record(num), record(num + 1)])
            num += 2
        elif step == "rotate":
            journal.rotate()
        else:
            records, offsets = tail(root, "shop", "decisions", offsets)
            seen += ids(records)
    assert seen == [f"d{i}" for i in range(num)]


def test_tail_goes_on_in_pieces_and_past_shipping(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "decisions", segment_bytes=600)
    for i in range(10):
        journal.append([record(i)])
    seen, offsets = [], {}
    while True:
        records, offsets = tail(tmp_path, "shop", "decisions", offsets, max_bytes=500)
        seen += ids(records)
        if not records:
            break
    assert seen == [f"d{i}" for i in range(10)]
    journal.close()
    assert ship(tmp_path, "shop", "decisions", tables) == 10
    assert tail(tmp_path, "shop", "decisions", offsets)[0] == []
    assert len(tail(tmp_path, "shop", "decisions", {})[0]) == 10


def test_segment_is_closed_by_age(tmp_path):
    now = 0.0
    journal = Journal(tmp_path, "shop", "decisions", segment_age_s=5, clock=lambda: now)
    journal.append([record(0)])
    now = 4.9
    journal.rotate_if_due()
    assert [p.suffix for p in (tmp_path / "shop").iterdir()] == [".open"]
    now = 5.0
    journal.rotate_if_due()
    assert [p.suffix for p in (tmp_path / "shop").iterdir()] == [".jsonl"]


def test_half_a_write_is_taken_back(tmp_path, monkeypatch):
    journal = Journal(tmp_path, "shop", "decisions")
    journal.append([record(0)])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        with pytest.raises(Unavailable, match="nothing was kept"):
            journal.append([record(1)])
    journal.append([record(2)])
    assert ids(tail(tmp_path, "shop", "decisions", {})[0]) == ["d0", "d2"]


def test_unwritable_folder_is_unavailable_and_heals(tmp_path):
    blocker = tmp_path / "shop"
    blocker.write_text("a file where the folder should be")
    journal = Journal(tmp_path, "shop", "decisions")
    with pytest.raises(Unavailable):
        journal.append([record(0)])
    blocker.unlink()
    journal.append([record(1)])
    assert ids(tail(tmp_path, "shop", "decisions", {})[0]) == ["d1"]


def test_ship_takes_closed_segments_once(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "decisions")
    journal.append([record(0), record(1)])
    assert ship(tmp_path, "shop", "decisions", tables) == 0  # its writer lives
    journal.rotate()
    journal.append([record(2)])
    assert ship(tmp_path, "shop", "decisions", tables) == 2
    assert ship(tmp_path, "shop", "decisions", tables) == 0
    rows = tables.read("log.decisions").to_pylist()
    assert sorted(r["id"] for r in rows) == ["d0", "d1"]
    assert rows[0]["inputs"] == '{"x":1.5,"plan":null}'
    assert str(rows[0]["time"].tzinfo) == "UTC"
    journal.close()


def test_shadow_scores_are_shipped_too(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "shadows")
    score = {"use_case": "shop", "tenant": "acme", "version": 2, "score": 0.25, "label": "No"}
    journal.append([{"decision_id": "d0", "time": "2026-01-01T00:00:00+00:00", **score}])
    journal.close()
    assert ship(tmp_path, "shop", "shadows", tables) == 1
    (row,) = tables.read("log.shadows").to_pylist()
    assert (row["decision_id"], row["version"], row["score"]) == ("d0", 2, 0.25)


def test_await_closed_returns_when_those_that_were_open_are_closed_or_their_writer_is_dead(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "decisions", segment_age_s=0.5)
    journal.append([record(0)])
    assert not await_closed(tmp_path, "shop", "decisions", timeout_s=0.2)
    closer = threading.Timer(0.5, journal.rotate)
    closer.start()
    assert await_closed(tmp_path, "shop", "decisions", timeout_s=10)
    assert ship(tmp_path, "shop", "decisions", tables) == 1
    closer.join()
    code = (
        "import os; from raysaas.stores.journal import Journal; "
        f"Journal({str(tmp_path)!r}, 'shop', 'decisions').append([{{'id': 'left'}}]); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert await_closed(tmp_path, "shop", "decisions", timeout_s=0)


def test_shipper_killed_between_commit_and_move_ships_nothing_twice(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "decisions")
    journal.append([record(0)])
    journal.close()
    assert ship(tmp_path, "shop", "decisions", tables) == 1
    folder = tmp_path / "shop"
    (moved,) = (folder / "shipped").glob("*.jsonl")
    moved.rename(folder / moved.name)  # as if the move had not happened
    other = Journal(tmp_path, "shop", "decisions")
    other.append([record(1)])
    other.close()
    assert ship(tmp_path, "shop", "decisions", tables) == 1
    assert sorted(r["id"] for r in tables.read("log.decisions").to_pylist()) == ["d0", "d1"]
    assert list(folder.glob("*.jsonl")) == []


def test_a_backlog_is_shipped_in_parts_and_goes_on_after_a_failure(tmp_path, tables, monkeypatch):
    journal = Journal(tmp_path, "shop", "decisions", segment_bytes=1)
    for i in range(7):
        journal.append([record(i)])
    monkeypatch.setattr("raysaas.stores.journal.PART_BYTES", 2 * len(str(record(0))))
    append, left = tables.append, [1, 1]
    monkeypatch.setattr(tables, "append", lambda *args: append(*args) if left.pop() else 0)
    with pytest.raises(IndexError):
        ship(tmp_path, "shop", "decisions", tables)
    monkeypatch.undo()
    assert 0 < tables.count("log.decisions") < 7
    ship(tmp_path, "shop", "decisions", tables)
    assert sorted(r["id"] for r in tables.read("log.decisions").to_pylist()) == [f"d{i}" for i in range(7)]


def test_outcomes_and_old_segments(tmp_path, tables):
    journal = Journal(tmp_path, "shop", "outcomes")
    journal.append([{"decision_id": "d0", "use_case": "shop", "tenant": "acme", "label": "Yes",
                     "observed_at": "2026-01-02T02:04:05+00:00"}])  # fmt: skip
    journal.close()
    assert ship(tmp_path, "shop", "outcomes", tables) == 1
    assert tables.read("log.outcomes").to_pylist()[0]["decision_id"] == "d0"
    assert ship(tmp_path, "shop", "outcomes", tables, keep_s=-1) == 0
    assert list((tmp_path / "shop" / "shipped").iterdir()) == []


WRITER = """
import sys
from raysaas.stores.journal import Journal
journal = Journal(sys.argv[1], "shop", "decisions", segment_bytes=5000)
i = 0
while True:
    journal.append([{"id": f"{sys.argv[2]}-{i}", "inputs": {}, "version": 1, "score": 0.5, "pad": "x" * 900}])
    print(i, flush=True)
    i += 1
"""


def test_kill_9_of_writers_loses_no_acknowledged_record(tmp_path, tables):
    answered = []
    for round_ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(round_)], stdout=subprocess.PIPE, text=True
        )
        lines = [writer.stdout.readline() for _ in range(50 + round_)]
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.readlines()
        writer.wait()
        answered += [f"{round_}-{int(line)}" for line in lines if line.endswith("\n")]
    ship(tmp_path, "shop", "decisions", tables)
    assert list(Path(tmp_path, "shop").glob("*.open")) == []
    shipped = [r["id"] for r in tables.read("log.decisions").to_pylist()]
    assert len(shipped) == len(set(shipped))
    assert set(answered) <= set(shipped)
    assert len(shipped) <= len(answered) + 3  # at most the one of each writer that was cut off before its answer


def test_append_is_fast_enough_for_the_request_path(tmp_path):
    journal = Journal(tmp_path, "shop", "decisions")
    started = time.perf_counter()
    for i in range(2000):
        journal.append([record(i)])
    assert (time.perf_counter() - started) / 2000 < 0.0005


def test_taken_segments_are_removed_and_those_with_unread_lines_stay(tmp_path):
    journal = Journal(tmp_path, "shop", "stats")
    journal.append([{"num": 1}])
    taken, offsets = tail(tmp_path, "shop", "stats", {})
    journal.append([{"num": 2}])
    journal.rotate()
    drop_taken(tmp_path, "shop", "stats", offsets)
    rest, offsets = tail(tmp_path, "shop", "stats", offsets)
    assert (taken, rest) == ([{"num": 1}], [{"num": 2}])
    journal.append([{"num": 3}])
    drop_taken(tmp_path, "shop", "stats", offsets)
    assert [path.suffix for path in (tmp_path / "shop").iterdir()] == [".open"]
    journal.close()
    drop_taken(tmp_path, "shop", "stats", None, keep_s=60)
    assert tail(tmp_path, "shop", "stats", offsets)[0] == [{"num": 3}]
    drop_taken(tmp_path, "shop", "stats", None)
    assert list((tmp_path / "shop").iterdir()) == []


def test_pending_records_are_those_of_open_and_closed_segments_until_they_are_shipped(tmp_path, tables):
    first, second = Journal(tmp_path, "shop", "decisions"), Journal(tmp_path, "shop", "decisions")
    first.append([record(1)])
    first.close()
    assert ship(tmp_path, "shop", "decisions", tables) == 1
    first.append([record(2)])
    first.close()
    second.append([record(3)])
    found = {one["id"] for one in pending(tmp_path, "shop", "decisions")}  # writers of one millisecond have no order
    assert found == {record(2)["id"], record(3)["id"]}
    assert pending(tmp_path, "shop", "outcomes") == pending(tmp_path, "nowhere", "decisions") == []
