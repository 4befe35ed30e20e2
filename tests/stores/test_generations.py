"""Which rows a model of a service version reads, on both backends."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from tests.contracts.online import row

from raysaas.stores.generations import OnlineService, OnlineView, publish, reading, retire
from raysaas.stores.online import OnlineStore

USAGE = OnlineView("shop__usage", "shop__usage@1", None, {"count_7d": "a", "sum_7d": "b"})
PLAN = OnlineView("shop__plan", "shop__plan@1", 60.0, {"plan": "c"})
FIRST = OnlineService("shop", "h1", (USAGE, PLAN))
WIDER = OnlineService("shop", "h2", (replace(USAGE, rows="shop__usage@2", features={**USAGE.features, "x": "d"}), PLAN))
OTHER = OnlineService("shop", "h3", (replace(USAGE, rows="shop__usage@3", features={**USAGE.features, "sum_7d": "e"}),))


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OnlineStore]:
    location = f"sqlite:///{tmp_path}/online.db"
    if request.param == "redis":
        location = request.getfixturevalue("redis_url")
        redis.Redis.from_url(location).flushdb()
    store = OnlineStore(location)
    yield store
    store.close()


def write(store: OnlineStore, service: OnlineService, number: int) -> None:
    for view in service.views:
        store.write(view.rows, [row(**dict.fromkeys(view.features, number))])
    publish(store, service)


def test_a_model_keeps_the_rows_of_its_own_definitions(store: OnlineStore) -> None:
    assert reading(store, "shop", "h1") is None
    write(store, FIRST, 1)
    assert reading(store, "shop", "h1") == {"shop__usage@1": None, "shop__plan@1": 60.0}
    write(store, OTHER, 3)
    assert reading(store, "shop", "h1") == {"shop__usage@1": None, "shop__plan@1": 60.0}
    assert reading(store, "shop", "h3") == {"shop__usage@3": None}
    assert store.read("shop__usage", [("t", "e")]) == [{"count_7d": 3, "sum_7d": 3}]
    assert store.read("shop__usage@1", [("t", "e")]) == [{"count_7d": 1, "sum_7d": 1}]


def test_a_view_that_only_gained_features_is_read_where_it_is_fresh(store: OnlineStore) -> None:
    write(store, FIRST, 1)
    write(store, WIDER, 2)
    assert reading(store, "shop", "h1") == {"shop__usage@2": None, "shop__plan@1": 60.0}
    slower = replace(WIDER, hash="h4", views=(replace(WIDER.views[0], rows="shop__usage@4", ttl_s=5.0), PLAN))
    write(store, slower, 4)
    assert reading(store, "shop", "h1") == {"shop__usage@1": None, "shop__plan@1": 60.0}, "another TTL is another view"


def test_generations_that_nobody_needs_go(store: OnlineStore) -> None:
    for number, service in enumerate((FIRST, WIDER, OTHER), 1):
        write(store, service, number)
    write(store, OnlineService("other", "h1", (OnlineView("other__usage", "other__usage@1", None, {"y": "z"}),)), 9)
    assert retire(store, "shop", {"h1"}) == ["shop__usage@2"]
    assert retire(store, "shop", {"h1"}) == []
    assert store.read("shop__usage@2", [("t", "e")]) == [None]
    assert reading(store, "shop", "h2") is None
    assert retire(store, "shop", ()) == ["shop__plan@1", "shop__usage@1"]
    assert store.read("shop__usage", [("t", "e")]) == [{"count_7d": 3, "sum_7d": 3}]
    assert store.rows.views() == ["other__usage", "other__usage@1", "shop__plan", "shop__usage", "shop__usage@3"] or (
        store.rows.views() == ["other__usage", "other__usage@1", "shop__usage", "shop__usage@3"]
    )


def test_rows_written_before_there_were_generations_leave_with_the_first(store: OnlineStore) -> None:
    store.write("shop__usage", [row(old=1), row("f", old=1)])
    write(store, FIRST, 1)
    assert store.keys("shop__usage") == [("t", "e")]
    store.write("shop__usage", [row(days=1, count_7d=5, sum_7d=5)])
    assert store.read("shop__usage@1", [("t", "e")]) == [{"count_7d": 5, "sum_7d": 5}]
