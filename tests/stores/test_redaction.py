"""Journal lines taken out: readers that hold a place in bytes go on, and nothing of them is shipped."""

from pathlib import Path

import pytest
from tests.leftovers import leftovers
from tests.stores.test_journal import ids, record

from raysaas.settings import Storage
from raysaas.stores.journal import Journal, ship, tail
from raysaas.stores.redaction import records, redact
from raysaas.stores.tables import Tables

WHO = "entity-that-is-forgotten-äöü"


def of(number: int, entity: str) -> dict[str, object]:
    return record(number) | {"entity": entity}


def gone(kind: str, line: dict[str, object]) -> bool:
    return kind == "decisions" and line["entity"] == WHO


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path, "shop", "decisions")


def test_a_reader_goes_on_where_it_was(tmp_path: Path, journal: Journal) -> None:
    journal.append([of(0, WHO), of(1, "a"), of(2, "b"), of(3, WHO), of(4, "c")])
    journal.rotate()
    lines = next(tmp_path.glob("shop/decisions-*.jsonl")).read_bytes().splitlines(keepends=True)
    first, places = tail(tmp_path, "shop", "decisions", {}, max_bytes=len(lines[0] + lines[1]) + 20)
    assert ids(first) == ["d0", "d1"]
    assert redact(tmp_path, "shop", gone) == 2
    journal.append([of(5, "d")])
    rest, _ = tail(tmp_path, "shop", "decisions", places)
    assert ids(rest) == ["d2", "d4", "d5"]
    assert leftovers(tmp_path, WHO) == []
    assert redact(tmp_path, "shop", gone) == 0


def test_closed_and_shipped_segments_change_and_open_ones_do_not(tmp_path: Path, journal: Journal) -> None:
    tables = Tables(Storage(home=str(tmp_path / "var")))
    journal.append([of(0, WHO), of(1, "a")])
    journal.rotate()
    assert ship(tmp_path, "shop", "decisions", tables) == 2
    journal.append([of(2, WHO), of(3, "b")])
    journal.rotate()
    journal.append([of(4, WHO)])
    assert ids(records(tmp_path, "shop", "decisions")) == ["d2", "d3", "d0", "d1"]
    assert redact(tmp_path, "shop", gone) == 2
    assert ship(tmp_path, "shop", "decisions", tables) == 1, "the line that is left"
    assert sorted(tables.read("log.decisions")["id"].to_pylist()) == ["d0", "d1", "d3"]
    journal.close()
    assert redact(tmp_path, "shop", gone) == 1


def test_a_segment_whose_writer_died_is_closed_first(tmp_path: Path, journal: Journal) -> None:
    journal.append([of(0, WHO)])
    left = next(tmp_path.glob("shop/*.open"))
    journal.close()
    closed = left.with_suffix(".jsonl")
    closed.rename(left)
    assert redact(tmp_path, "shop", gone) == 1
    assert closed.exists()
    assert leftovers(tmp_path, WHO) == []
