"""The online contract on SQLite, and what only a file can show."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import services
from tests.contracts.online import T0, OnlineStoreContract, dated, row

from raysaas.errors import ConfigError, Unavailable
from raysaas.stores.online import OnlineStore, online_views
from raysaas.use_case import Column, Examples, Source, UseCase, View


class TestSqlite(OnlineStoreContract):
    @pytest.fixture
    def location(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/deep/online.db"

    @pytest.fixture
    def store(self, location: str) -> Iterator[OnlineStore]:
        store = OnlineStore(location)
        yield store
        store.close()


class TestRedis(OnlineStoreContract):
    @pytest.fixture
    def location(self, redis_url: str) -> str:
        redis.Redis.from_url(redis_url).flushdb()
        return redis_url

    @pytest.fixture
    def store(self, location: str) -> Iterator[OnlineStore]:
        store = OnlineStore(location)
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
    assert dated(OnlineStore(tmp_path / "online.db"), "v", [("t", "e")]) == [(T0, {"x": 1})]


def test_reading_imports_neither_feast_nor_pandas() -> None:
    code = "import sys, raysaas.stores.online; assert not {'feast', 'pandas', 'mlflow', 'ray'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reading_a_file_does_not_import_redis(tmp_path: Path) -> None:
    code = (
        "import sys; from raysaas.stores.online import OnlineStore; OnlineStore(sys.argv[1]).read('v', [('t', 'e')]); "
    )
    code += "assert 'redis' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "online.db")], check=False).returncode == 0


def test_a_server_that_is_away_is_said_and_used_again_when_it_is_back() -> None:
    with services.redis() as url:
        port = urlsplit(url).port
        store = OnlineStore(url)
        store.write("v", [row(x=1)])
        assert store.read("v", [("t", "e")]) == [{"x": 1}]
    for call in (lambda: store.read("v", [("t", "e")]), lambda: store.write("v", [row(x=1)]), lambda: store.count("v")):
        with pytest.raises(Unavailable, match=rf"^The online store redis://127.0.0.1:{port}/0 (does|did) not answer"):
            call()
    with services.redis(port=port):
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with suppress(Unavailable):
                store.write("v", [row(x=2)])
                break
            time.sleep(0.05)
        assert store.read("v", [("t", "e")]) == [{"x": 2}]


def test_a_server_that_hangs_holds_nobody_up_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        store = OnlineStore(f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.2")
        started = time.monotonic()
        for _ in range(20):
            with pytest.raises(Unavailable):
                store.read("v", [("t", "e")])
        assert time.monotonic() - started < 2


def test_connections_that_the_server_closed_are_opened_again_unnoticed() -> None:
    with services.redis() as url:
        store, admin = OnlineStore(url), redis.Redis.from_url(url)
        store.write("v", [row(x=1)])
        for _ in range(3):
            assert admin.client_kill_filter(_type="normal", skipme=True)
            assert store.read("v", [("t", "e")]) == [{"x": 1}]


def test_one_connection_is_enough(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushdb()
    store = OnlineStore(f"{redis_url}?max_connections=1")
    store.write("v", [row(x=1)])
    for _ in range(2):
        assert store.read("v", [("t", "e")]) == [{"x": 1}]
        assert (store.count("v"), store.keys("v")) == (1, [("t", "e")])


def test_a_forked_process_has_connections_of_its_own(redis_url: str) -> None:
    redis.Redis.from_url(redis_url).flushdb()
    store = OnlineStore(redis_url)
    store.write("v", [row("parent", who="parent"), row("child", who="child")])

    def reads(who: str) -> bool:
        return all(store.read("v", [("t", who)]) == [{"who": who}] for _ in range(300))

    assert reads("parent")
    child = os.fork()
    if not child:
        os._exit(0 if reads("child") else 1)
    assert reads("parent")
    assert os.waitpid(child, 0)[1] == 0


def test_a_wrong_password_is_said_without_it() -> None:
    with services.redis("--requirepass", "right") as url:
        port = urlsplit(url).port
        assert OnlineStore(f"redis://:right@127.0.0.1:{port}/0").count("v") == 0
        for wrong in (f"redis://:wr0ng@127.0.0.1:{port}/0", url):
            with pytest.raises(ConfigError, match=r"storage\.online_url") as caught:
                OnlineStore(wrong).read("v", [("t", "e")])
            assert "wr0ng" not in str(caught.value)


def test_forgotten_bytes_leave_the_file(tmp_path: Path) -> None:
    store = OnlineStore(tmp_path / "online.db")
    store.write("v", [row(f"person-{n}", note=f"secret-of-{n}") for n in range(500)])
    store.forget("t", "person-77")
    store.close()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"secret-of-78" in content
    assert b"secret-of-77" not in content
    assert b"person-77" not in content


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
