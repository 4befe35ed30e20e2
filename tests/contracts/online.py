"""What every online store must do; ``tests/stores/test_online.py`` runs it on each backend through the fixture
``store``."""

import math
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from raysaas.stores.online import Key, OnlineStore
from raysaas.stores.packing import EPOCH, MICRO

T0 = datetime(2026, 1, 1, tzinfo=UTC)
VALUES: dict[str, Any] = {
    "float": 0.1,
    "nan": math.nan,
    "infinite": -math.inf,
    "big": 2**63 - 1,
    "small": -(2**63),
    "yes": True,
    "no": False,
    "text": "süß ☕",
    "empty": "",
    "null": None,
}


def dated(store: OnlineStore, view: str, keys: Sequence[Key]) -> list[tuple[datetime, dict[str, Any]] | None]:
    """Event time and values of each key, None where there is no row."""
    found = store.read_dated([view], keys)
    return [(EPOCH + times[view] * MICRO, values) if times else None for values, times in found]


def row(
    entity: str = "e", tenant: str = "t", days: int = 0, **values: Any
) -> tuple[str, str, datetime, Mapping[str, Any]]:
    return tenant, entity, T0 + timedelta(days=days), values


class OnlineStoreContract:
    """Inherit it and offer the fixtures ``location`` and ``store``."""

    def test_every_type_comes_back_exactly(self, store: OnlineStore) -> None:
        store.write("v", [row(**VALUES)])
        (got,) = store.read("v", [("t", "e")])
        assert got is not None
        assert list(got) == list(VALUES)
        assert math.isnan(got["nan"])
        assert [(type(x), x) for x in got.values() if x == x] == [(type(x), x) for x in VALUES.values() if x == x]

    def test_a_table_is_written_as_its_rows(self, store: OnlineStore) -> None:
        context = {
            "row_id": ["r"],
            "tenant": ["t"],
            "entity": ["e"],
            "event_time": pa.array([T0], pa.timestamp("us", "UTC")),
            "known_at": pa.array([T0], pa.timestamp("us", "UTC")),
        }
        assert (
            store.write("v", pa.table({**context, "big": [2**63 - 1], "x": [0.5], "s": pa.array([None], pa.string())}))
            == 1
        )
        assert dated(store, "v", [("t", "e")]) == [(T0, {"big": 2**63 - 1, "x": 0.5, "s": None})]

    def test_an_older_row_never_replaces_a_newer_one(self, store: OnlineStore) -> None:
        store.write("v", [row(days=2, x=2), row(days=1, x=1)])
        store.write("v", [row(days=0, x=0)])
        assert store.read("v", [("t", "e")]) == [{"x": 2}]
        store.write("v", [row(days=2, x="corrected"), row(days=2, x="again")])
        assert store.read("v", [("t", "e")]) == [{"x": "again"}]

    def test_keys_are_answered_in_order_and_apart(self, store: OnlineStore) -> None:
        store.write("v", [row(x=1), row(tenant="other", x=2)])
        store.write("w", [row(x=3)])
        assert store.read("v", [("other", "e"), ("t", "none"), ("t", "e"), ("t", "e")]) == [
            {"x": 2},
            None,
            {"x": 1},
            {"x": 1},
        ]

    def test_views_are_merged_per_key(self, store: OnlineStore) -> None:
        store.write("v", [row(x=1), row("f", x=5)])
        store.write("w", [row(y=2)])
        got = store.read_many(["v", "w"], [("t", "e"), ("t", "f"), ("t", "g")])
        assert got == [{"x": 1, "y": 2}, {"x": 5}, None]

    def test_counting_and_dropping_are_per_view(self, store: OnlineStore) -> None:
        store.write("v", [row(x=1), row("f", x=1)])
        store.write("w", [row(x=1)])
        store.drop("v")
        assert (store.count("v"), store.count("w")) == (0, 1)

    def test_a_failed_write_leaves_nothing(self, store: OnlineStore) -> None:
        try:
            store.write("v", [row(x=1), row("f", x=object())])
        except TypeError:
            assert store.count("v") == 0
        else:
            raise AssertionError("an object was packed")

    def test_readers_in_threads_see_whole_rows(self, store: OnlineStore) -> None:
        store.write("v", [row(x=0, y=0)])
        torn: list[Any] = []

        def read() -> None:
            for _ in range(200):
                (got,) = store.read("v", [("t", "e")])
                if got is None or got["x"] != got["y"]:
                    torn.append(got)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for version in range(100):
            store.write("v", [row(days=version, x=version, y=version)])
        for reader in readers:
            reader.join()
        assert torn == []
        assert store.read("v", [("t", "e")]) == [{"x": 99, "y": 99}]

    def test_a_row_past_its_ttl_is_absent(self, store: OnlineStore) -> None:
        store.write("v", [row(x=1)])
        store.write("w", [row(y=2)])
        at, ttls = T0.timestamp(), {"v": 60.0}
        for now, expected in ((at + 60, {"x": 1, "y": 2}), (at + 60.001, {"y": 2})):
            ((values, times),) = store.read_dated(["v", "w"], [("t", "e")], ttls_s=ttls, now=now)
            assert values == expected
            assert set(times) == {"v", "w"} if now == at + 60 else {"w"}
        assert store.read_many(["v"], [("t", "e")], ttls_s=ttls) == [None]
        store.write("v", [("t", "e", datetime.now(UTC), {"x": 3})])
        assert store.read_many(["v"], [("t", "e")], ttls_s=ttls) == [{"x": 3}]

    def test_event_times_come_back_to_the_microsecond_from_any_century(self, store: OnlineStore) -> None:
        moments = [datetime(year, 2, 3, 4, 5, 6, 789, tzinfo=UTC) for year in (1, 1969, 1970, 2026, 9999)]
        store.write("v", [("t", f"e{n}", moment, {"x": n}) for n, moment in enumerate(moments)])
        found = dated(store, "v", [("t", f"e{n}") for n in range(len(moments))])
        assert found == [(moment, {"x": n}) for n, moment in enumerate(moments)]
        tick = timedelta(microseconds=1)
        for n, moment in enumerate(moments):
            store.write("v", [("t", f"e{n}", moment + tick, {"x": "newer"})])
            store.write("v", [("t", f"e{n}", moment, {"x": "older"})])
        assert store.read("v", [("t", "e0"), ("t", "e2"), ("t", "e4")]) == [{"x": "newer"}] * 3

    def test_lists_bytes_and_times_are_values_too(self, store: OnlineStore) -> None:
        values = {"list": [1, 2.5, "a", None], "bytes": b"\x00\xff", "time": T0, "nested": [[True], []]}
        store.write("v", [row(**values)])
        assert store.read("v", [("t", "e")]) == [values]

    def test_a_feature_that_comes_later_is_added_and_absent_ones_are_null(self, store: OnlineStore) -> None:
        store.write("v", [row(x=1), row("f", x=1)])
        store.write("v", [row(days=1, y=2, x=3), row("g", days=1, y=2)])
        assert store.read("v", [("t", "e"), ("t", "f"), ("t", "g")]) == [
            {"x": 3, "y": 2},
            {"x": 1},
            {"x": None, "y": 2},
        ]

    def test_keys_never_mix_tenants_whatever_they_are_called(self, store: OnlineStore) -> None:
        keys = [
            ("a", "b:c"),
            ("a:b", "c"),
            ("1", "1:x"),
            ("11", ":x"),
            ("", "e"),
            ("süß", "☕*[?]"),
            ("a\x1fb", "\x1f"),
        ]
        store.write("v", [row(entity, tenant, n=n) for n, (tenant, entity) in enumerate(keys)])
        assert store.read("v", keys) == [{"n": n} for n in range(len(keys))]
        assert store.keys("v") == sorted(keys)
        assert store.read("v", [("a", "c"), ("a:b", "b:c"), ("b", "e")]) == [None] * 3

    def test_many_keys_and_views_at_once(self, store: OnlineStore) -> None:
        views = [f"v{n}" for n in range(70)]
        for n, view in enumerate(views):
            store.write(view, [row(f"e{i}", **{view: (n, i)}) for i in range(5)])
        store.write("v0", [row(f"e{i}", v0=i) for i in range(5, 4500)])
        keys = [("t", f"e{i}") for i in range(4600)]
        found = store.read_many([*views, "none"], keys)
        assert found[3] == {view: [n, 3] for n, view in enumerate(views)} | {"v0": [0, 3]}
        assert found[4499] == {"v0": 4499}
        assert found[4500:] == [None] * 100
        assert store.read_many(["none"], [("t", "e1")]) == [None]
        assert store.read_many(views, []) == []

    def test_what_is_forgotten_is_gone_from_every_view(self, store: OnlineStore) -> None:
        people = [row("a", x=1), row("b", x=2), row("a", "t*", x=3), row("a", "tt", x=4)]
        store.write("v", people)
        store.write("w", people)
        assert store.forget("t", "a") == 2
        assert store.read_many(["v", "w"], [("t", "a"), ("t", "b")]) == [None, {"x": 2}]
        assert store.forget("t*") == 2
        assert store.keys("v") == store.keys("w") == [("t", "b"), ("tt", "a")]
        assert store.forget("t", "nobody") == store.forget("none") == 0
        store.write("shop__v", people)
        store.write("other__v", people)
        assert store.forget("t", "a", use_case="shop") == 1
        assert (store.count("shop__v"), store.count("other__v"), store.count("v")) == (3, 4, 2)

    def test_a_name_is_switched_for_all_views_at_once(self, store: OnlineStore) -> None:
        """Readers of two views, in threads, while both are written anew and switched: never one old and one new."""
        views, mixed, stop = ["v", "w"], [], threading.Event()

        def generation(number: int) -> None:
            for view in views:
                store.write(f"{view}@{number}", [row(f"e{i}", **{view: number}) for i in range(20)])
            store.rows.publish({view: f"{view}@{number}" for view in views}, {"current": str(number)})
            store.rows.retire([f"{view}@{number - 2}" for view in views], [])

        def read() -> None:
            while not stop.is_set():
                for got in store.read_many(views, [("t", f"e{i}") for i in range(20)]):
                    if got is None or got["v"] != got["w"]:
                        mixed.append(got)

        generation(0)
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for number in range(1, 25):
            generation(number)
        stop.set()
        for reader in readers:
            reader.join()
        assert mixed == []
        assert store.rows.views() == ["v", "v@23", "v@24", "w", "w@23", "w@24"]
        assert store.rows.records() == {"current": "24"}
        store.drop("v")
        assert store.count("v") == 0
        assert store.count("v@24") == 20

    def test_processes_write_and_read_the_same_keys(self, store: OnlineStore, location: str) -> None:
        """A reader never sees half a row or a step back while two other processes write, and the newest row wins."""
        writer = """
import sys
from datetime import UTC, datetime, timedelta
from raysaas.stores.online import Key, OnlineStore
from raysaas.stores.packing import EPOCH, MICRO
store, start = OnlineStore(sys.argv[1]), int(sys.argv[2])
for n in range(start, 200, 2):
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=n)
    store.write("v", [("t", f"e{i}", moment, {"x": n, "y": n}) for i in range(20)])
"""
        store.write("v", [row(f"e{i}", x=0, y=0) for i in range(20)])
        writers = [subprocess.Popen([sys.executable, "-c", writer, location, str(n)]) for n in (0, 1)]
        newest, keys = [0] * 20, [("t", f"e{i}") for i in range(20)]
        while any(process.poll() is None for process in writers):
            for i, got in enumerate(store.read("v", keys)):
                assert got is not None
                assert got["x"] == got["y"] >= newest[i]
                newest[i] = got["x"]
        assert [process.returncode for process in writers] == [0, 0]
        assert store.read("v", keys) == [{"x": 199, "y": 199}] * 20
