"""Feast over the online store, on SQLite and on Redis: its SDK, its command line, its types and its statuses."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.repo_config import RepoConfig
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from tests.cluster.test_features import COLUMNS, same, typed_case, typed_rows
from tests.features.worlds import NOW, raw, world

from raysaas.features.build import materialize, training_set
from raysaas.features.online import online_store
from raysaas.records import Arm, Release
from raysaas.settings import Settings, Storage
from raysaas.stores.generations import current, reading
from raysaas.stores.ledger import Ledger
from raysaas.stores.online import OnlineStore
from raysaas.stores.tables import Tables
from raysaas.use_case import View

HERE, T0 = Path(sys.executable).parent, datetime(2026, 1, 1, tzinfo=UTC)
TYPES = {
    "f64": Float64, "f32": Float32, "i64": Int64, "i32": Int32, "yes": Bool, "text": String, "raw": Bytes,
    "at": UnixTimestamp, "floats": Array(Float64), "ints": Array(Int64), "texts": Array(String),
}  # fmt: skip
VALUES: list[dict[str, Any]] = [
    {"f64": 0.1, "f32": 0.5, "i64": 2**63 - 1, "i32": -(2**31), "yes": True, "text": "süß ☕", "raw": b"\x00\xff",
     "at": T0, "floats": [0.1, -2.5], "ints": [1, -(2**62)], "texts": ["a", ""]},
    {"f64": -math.inf, "f32": 1.5, "i64": -(2**63), "i32": 7, "yes": False, "text": "", "raw": b"\x01", "at": T0,
     "floats": [math.inf], "ints": [0], "texts": ["ü"]},
]  # fmt: skip


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/online.db"
        return
    location = request.getfixturevalue("redis_url")
    redis.Redis.from_url(location).flushdb()
    yield location


@pytest.fixture
def typed(url: str, tmp_path: Path) -> tuple[Settings, Tables]:
    settings, tables = world(tmp_path / "var", typed_case(), log=raw(typed_rows()))
    settings.storage = Storage(home=str(tmp_path / "var"), online_url=url)
    materialize(settings, tables, NOW)
    return settings, tables


def repository(folder: Path, online: dict[str, Any], ttl: timedelta | None = None) -> FeatureStore:
    """A plain Feast repository with a view of every type, over the given online store."""
    folder.mkdir()
    frame = pd.DataFrame(
        {"tenant": ["t"], "entity": ["e"], "event_time": [T0], **{k: [v] for k, v in VALUES[0].items()}}
    )
    frame.to_parquet(folder / "rows.parquet")
    config = {"project": "types", "provider": "local", "registry": str(folder / "registry.db"), "online_store": online,
              "entity_key_serialization_version": 3}  # fmt: skip
    store = FeatureStore(config=RepoConfig(repo_path=folder, **config))
    keys = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in ("tenant", "entity")]
    batch = FileSource(path=str(folder / "rows.parquet"), timestamp_field="event_time", name="rows")
    push = PushSource(name="push", batch_source=batch)
    fields = [Field(name=name, dtype=kind) for name, kind in TYPES.items()]
    view = FeatureView(name="every", entities=keys, ttl=ttl or timedelta(0), source=push, schema=fields)
    store.apply([*keys, view])
    return store


def frame(rows: list[dict[str, Any]], moment: datetime = T0) -> pd.DataFrame:
    keys = {"tenant": "t", "event_time": moment}
    return pd.DataFrame([{**keys, "entity": f"e{n}", **row} for n, row in enumerate(rows)])


def answers(store: FeatureStore, *entities: str) -> dict[str, list[Any]]:
    asked = [{"tenant": "t", "entity": entity} for entity in entities]
    answer: dict[str, list[Any]] = store.get_online_features([f"every:{name}" for name in TYPES], asked).to_dict()
    return answer


def test_every_type_is_answered_as_feasts_own_store_does(url: str, tmp_path: Path) -> None:
    ours = repository(tmp_path / "ours", {"type": "raysaas.features.feast_online.PackedOnlineStore", "url": url})
    theirs = repository(tmp_path / "theirs", {"type": "sqlite", "path": str(tmp_path / "theirs.db")})
    for store in (ours, theirs):
        store.write_to_online_store("every", df=frame(VALUES[:1]))
        store.push("push", frame(VALUES[1:] * 2, T0 + timedelta(days=1)))
    got, expected = answers(ours, "e0", "e1", "nobody"), answers(theirs, "e0", "e1", "nobody")
    assert got == expected
    assert [got[name][0] for name in TYPES if name != "at"] == [VALUES[1][name] for name in TYPES if name != "at"]
    (values,) = OnlineStore(url).read("every", [("t", "e1")])
    assert values is not None
    assert {name: value for name, value in values.items() if name != "at"} == {
        name: value for name, value in VALUES[1].items() if name != "at"
    }
    assert got["at"][1] == values["at"].replace(tzinfo=got["at"][1].tzinfo)


def test_each_entity_has_a_status_of_its_own(url: str, tmp_path: Path) -> None:
    config = {"type": "raysaas.features.feast_online.PackedOnlineStore", "url": url}
    store, now = repository(tmp_path / "repo", config, timedelta(days=1)), datetime.now(UTC)
    store.write_to_online_store("every", df=frame(VALUES[:1], now))
    OnlineStore(url).write(
        "every", [("t", "old", now - timedelta(days=2), VALUES[0]), ("t", "null", now, {"f64": None})]
    )
    asked = [{"tenant": "t", "entity": entity} for entity in ("e0", "old", "null", "nobody", "e0")]
    proto = store.get_online_features(["every:f64"], asked).proto
    statuses = [
        FieldStatus.Name(status)
        for status in proto.results[list(proto.metadata.feature_names.val).index("f64")].statuses
    ]
    assert statuses == ["PRESENT", "OUTSIDE_MAX_AGE", "NULL_VALUE", "NOT_FOUND", "PRESENT"]
    assert answers(store, "e0", "old", "null", "nobody")["f64"] == [0.1, None, None, None]
    assert OnlineStore(url).read_many(["every"], [("t", "old")], ttls_s={"every": 86_400}) == [None]


def test_online_rows_are_those_of_get_online_features_on_each_backend(typed: tuple[Settings, Tables]) -> None:
    settings, _ = typed
    feast = FeatureStore(repo_path=f"{settings.storage.home}/feast/typed")
    keys = [(row["tenant"], row["entity"]) for row in typed_rows()] + [("t0", "nobody")]
    asked = [{"tenant": tenant, "entity": entity} for tenant, entity in keys]
    answer = feast.get_online_features(feast.get_feature_service("typed"), asked).to_dict()
    packed = online_store(settings).read("typed__row", keys)
    assert packed[-1] is None
    for position, values in enumerate(packed[:-1]):
        assert values is not None
        assert list(values) == list(COLUMNS)[1:]
        assert all(same(answer[name][position], value) for name, value in values.items())
        assert all(same(values[name], typed_rows()[position][name]) for name in values)


def test_feasts_command_line_materialises_and_a_stock_sdk_reads(url: str, tmp_path: Path) -> None:
    settings, tables = world(tmp_path / "var", typed_case(), log=raw(typed_rows()))
    settings.storage = Storage(home=str(tmp_path / "var"), online_url=url)
    training_set(settings, tables, now=NOW)
    store, folder = online_store(settings), f"{settings.storage.home}/feast/typed"
    keys = [(row["tenant"], row["entity"]) for row in typed_rows()]
    for arguments, done in (("materialize 2025-12-01T00:00:00 2026-01-20T00:00:00", 20),
                            ("materialize-incremental 2026-12-31T00:00:00", 60)):  # fmt: skip
        run([str(HERE / "feast"), "-c", folder, *arguments.split()])
        assert [row is not None for row in store.read("typed__row", keys)] == [n < done for n in range(60)]
    code = f"""
import json
from feast import FeatureStore
asked = [{{"tenant": t, "entity": e}} for t, e in {keys!r}]
refs = ["typed__row:boolean", "typed__row:category"]
print(json.dumps(FeatureStore(repo_path={folder!r}).get_online_features(refs, asked).to_dict()))
"""
    answer = json.loads(run([sys.executable, "-c", code]).splitlines()[-1])
    assert {name: answer[name] for name in ("boolean", "category")} == {
        name: [row[name] for row in typed_rows()] for name in ("boolean", "category")
    }


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_changed_features_never_reach_a_released_model(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    store, ledger = online_store(settings), Ledger(str(settings.storage.ledger_url))
    first, key = current(store, "typed"), [("t0", "e3")]
    (before,) = store.read("typed__row", key)
    arm = Arm(version=1, uri="a", digest="d", features=first)
    ledger.set_release(Release(use_case="typed", sequence=1, champion=arm, actor="me", reason="test", at=NOW))
    settings.use_case.views = {"last": View(source="log", columns=["number"])}
    materialize(settings, tables, NOW)
    second = current(store, "typed")
    assert second != first
    old, new = reading(store, "typed", first), reading(store, "typed", second)
    assert old is not None
    assert new is not None
    assert store.read_many(list(old), key) == [before]
    assert store.read_many(list(new), key) == store.read("typed__last", key)
    settings.use_case.sources["log"].derive = {"number": "1"}
    materialize(settings, tables, NOW)
    assert current(store, "typed") not in (first, second), "the same name, but another meaning"
    assert reading(store, "typed", second) is None, "nothing was released with it"
    assert store.read_many(list(old), key) == [before]
    assert reading(store, "typed", first) == old
