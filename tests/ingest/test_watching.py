"""When a file counts as finished, and which names are never taken."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raysaas.errors import ConfigError, InputError
from raysaas.ingest.sources import UNFINISHED, Found, find
from raysaas.ingest.watching import Finished
from raysaas.settings import Ingest

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _file(size: int = 1, age_s: float = 0, uri: str = "a.csv") -> Found:
    return Found(uri, size, NOW - timedelta(seconds=age_s))


def test_a_file_is_finished_when_it_stood_still_for_a_look_or_is_old() -> None:
    finished = Finished(every_s=10)
    assert finished.among([_file(), _file(uri="old.csv", age_s=20)], NOW) == [_file(uri="old.csv", age_s=20)]
    assert finished.among([_file(size=2)], NOW) == [], "it has grown"
    assert finished.among([_file(size=2, age_s=-1)], NOW) == [], "it was touched"
    assert finished.among([_file(size=2, age_s=-1)], NOW) == [_file(size=2, age_s=-1)]
    assert finished.among([], NOW) == []
    assert finished.among([_file(size=2, age_s=-1)], NOW) == [], "it had gone meanwhile"
    assert finished.among([Found("s3://b/k.csv", 1, None)], NOW) == []


@pytest.mark.parametrize("path", ["drop", "drop/*", "drop/**/*", "drop/o*"])
def test_names_of_unfinished_files_are_left_out_of_folders_and_globs(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "drop"
    folder.mkdir()
    for name in ["orders.csv", ".orders.csv", *(f"orders.csv{suffix}" for suffix in UNFINISHED), "orders.csv.TMP"]:
        (folder / name).write_text("a\n1\n")
    assert [Path(one.uri).name for one in find(path, tmp_path)] == ["orders.csv"]
    (exact,) = find("drop/orders.csv.tmp", tmp_path)
    assert exact.uri.endswith(".tmp"), "who names a file means it"


def test_what_is_found_has_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    os.utime(tmp_path / "a.csv", (NOW.timestamp(), NOW.timestamp()))
    assert find("a.csv", tmp_path) == [Found(str(tmp_path / "a.csv"), 4, NOW)]


def test_nothing_there_is_a_mistake_unless_one_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        find("later", tmp_path)
    assert find("later", tmp_path, missing_ok=True) == []
    assert find("later/*.csv", tmp_path, missing_ok=True) == []


def test_the_pause_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"ingest\.every_s=0"):
        Ingest(every_s=0)
