"""What every online store must do; ``tests/stores/test_online.py`` runs it on each backend through the fixture
``store``."""

import math
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from raysaas.stores.online import OnlineStore

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


def row(
    entity: str = "e", tenant: str = "t", days: int = 0, **values: Any
) -> tuple[str, str, datetime, Mapping[str, Any]]:
    return tenant, entity, T0 + timedelta(days=days), values


class OnlineStoreContract:
    """Inherit it and offer a fixture ``store``."""

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
        assert store.read_rows("v", [("t", "e")]) == [(T0, {"big": 2**63 - 1, "x": 0.5, "s": None})]

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
