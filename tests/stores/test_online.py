"""The online contract on SQLite, and what only a file can show."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.contracts.online import T0, OnlineStoreContract, row

from raysaas.stores.online import OnlineStore, online_views
from raysaas.use_case import Column, Examples, Source, UseCase, View


class TestSqlite(OnlineStoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[OnlineStore]:
        store = OnlineStore(tmp_path / "deep" / "online.db")
        yield store
        store.close()


def test_rows_outlive_the_process_that_wrote_them(tmp_path: Path) -> None:
    code = f"""
import os, datetime
from raysaas.stores.online import OnlineStore
store = OnlineStore({str(tmp_path / "online.db")!r})
store.write("v", [("t", "e", datetime.datetime(2026, 1, 1), {{"x": 1}})])
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert OnlineStore(tmp_path / "online.db").read_rows("v", [("t", "e")]) == [(T0, {"x": 1})]


def test_reading_imports_neither_feast_nor_pandas() -> None:
    code = "import sys, raysaas.stores.online; assert not {'feast', 'pandas', 'mlflow', 'ray'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_closed_store_opens_again(tmp_path: Path) -> None:
    store = OnlineStore(tmp_path / "online.db")
    store.write("v", [row(x=1)])
    store.close()
    assert store.read("v", [("t", "e")]) == [{"x": 1}]


def test_views_of_a_use_case() -> None:
    source = {"rows": Source(columns={"y": Column()})}
    plain = UseCase(name="plain", sources=source, examples=Examples(source="rows", label="y"))
    viewed = UseCase(
        name="seen", sources=source, examples=Examples(source="rows", label="y"), views={"a": View(source="rows")}
    )
    assert online_views(plain) == ["plain__row"]
    assert online_views(viewed) == ["seen__a"]
