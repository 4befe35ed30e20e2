"""From the journal's segments to an extract: every acknowledged event once, whoever was killed where."""

from pathlib import Path

import pytest

from raysaas.ingest.inbox import Inbox
from raysaas.ingest.pushed import SEGMENTS, Events, committed
from raysaas.ingest.sources import read
from raysaas.stores.journal import Journal, events_kind


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(str(tmp_path), "shop", "orders", Inbox(f"file://{tmp_path}/warehouse", "shop__orders", "events"))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "shop", events_kind("orders"))


def _sent(events: Events, done: set[str]) -> list[int]:
    return [int(row["n"]) for file in events.extract(done).files for row in read(file).to_pylist()]


def test_closed_segments_are_taken_once_and_a_living_one_not(events: Events, journal: Journal, tmp_path: Path) -> None:
    assert _sent(events, set()) == []
    journal.append([{"n": 1}, {"n": 2}])
    assert _sent(events, set()) == [], "its writer lives"
    journal.rotate()
    journal.append([{"n": 3}])
    journal.rotate()
    made = events.extract(set())
    assert _sent(events, set()) == [1, 2, 3]
    assert made.files[0].pushed
    stems = committed([dict(made.properties)])
    assert len(stems) == 2
    events.clean(made)
    assert _sent(events, stems) == []
    assert sorted(path.stem for path in (tmp_path / "shop" / "shipped").iterdir()) == sorted(stems)


def test_killed_between_commit_and_clean_up_nothing_comes_twice(events: Events, journal: Journal) -> None:
    journal.append([{"n": 1}])
    journal.rotate()
    stems = committed([dict(events.extract(set()).properties)])
    journal.append([{"n": 2}])
    journal.rotate()
    assert _sent(events, stems) == [2]


def test_killed_before_the_commit_the_same_batch_is_finished_first(events: Events, journal: Journal) -> None:
    journal.append([{"n": 1}])
    journal.rotate()
    first = events.extract(set())
    journal.append([{"n": 2}])
    journal.rotate()
    assert events.extract(set()) == first
    events.clean(first)
    assert _sent(events, committed([dict(first.properties)])) == [2]


def test_fields_that_come_late_and_torn_lines(events: Events, journal: Journal, tmp_path: Path) -> None:
    journal.append([{"n": i} for i in range(1500)])
    journal.append([{"n": 1500, "user.age": 7}])
    journal.rotate()
    (segment,) = (tmp_path / "shop").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"   \n" + b'{"n": 9')
    rows = read(events.extract(set()).files[0]).to_pylist()
    assert len(rows) == 1501
    assert rows[-1] == {"n": "1500", "user.age": "7"}


def test_a_source_whose_name_begins_like_another_takes_only_its_own(events: Events, tmp_path: Path) -> None:
    other = Journal(tmp_path, "shop", events_kind("orders_old"))
    other.append([{"n": 1}])
    other.rotate()
    made = events.extract(set())
    assert (made.files, made.properties.get(SEGMENTS)) == ((), None)
