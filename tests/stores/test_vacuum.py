"""SQLite without the bytes of deleted rows, while others read and write it."""

import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

from tests.leftovers import leftovers

from raysaas.stores.ledger import Ledger
from raysaas.stores.online import OnlineStore
from raysaas.stores.vacuum import vacuum

WHO = "somebody-who-was-deleted"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_deleted_bytes_go_from_pages_and_log(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger(url)
    for number in range(200):
        ledger.add_key(f"k{number}", f"{WHO}-{number}", ["predict"])
    with sqlite3.connect(tmp_path / "ledger.db") as plain:  # some builds of SQLite overwrite without being asked
        plain.execute("PRAGMA secure_delete=OFF")
        plain.execute("DELETE FROM api_keys")
    plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    plain.close()
    assert leftovers(tmp_path, WHO)
    assert vacuum(url) == ""
    assert leftovers(tmp_path, WHO) == []
    ledger.add_key("k", "acme", [])
    assert [key.tenant for key in Ledger(url).keys()] == ["acme"]  # noqa: SIM118  keys() is no mapping's
    assert vacuum("mysql://server/db").startswith("mysql keeps")


def test_replicas_go_on_meanwhile(tmp_path: Path) -> None:
    """Each reads and writes with a connection of its own; the file stays whole."""
    path, stop, faults, read = tmp_path / "online.db", threading.Event(), list[Exception](), list[int]()
    OnlineStore(path).write("v", [("t", WHO, NOW, {"x": 1}), ("t", "other", NOW, {"x": 0})])

    def replica(number: int) -> None:
        store = OnlineStore(path)
        try:
            while not stop.is_set():
                store.write("v", [("t", f"e{number}-{len(read)}", NOW, {"x": number})])
                assert store.read("v", [("t", "other")]) == [{"x": 0}]
                read.append(number)
        except Exception as error:  # noqa: BLE001  told at the end
            faults.append(error)

    threads = [threading.Thread(target=replica, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while len(read) < 30 and not faults:
        pass
    assert OnlineStore(path).forget("t", WHO) == 1
    assert vacuum(f"sqlite:///{path}") == ""
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    assert leftovers(tmp_path, WHO) == []
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
