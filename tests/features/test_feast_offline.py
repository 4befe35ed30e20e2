"""Our offline store keeps the contract; on the same rows Feast's own stores do not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FileSource, RepoConfig, ValueType
from tests.contracts.offline import Given, OfflineStoreContract, Open

from raysaas.features.feast_source import IcebergSource
from raysaas.settings import Storage
from raysaas.stores.tables import Tables


@pytest.fixture(scope="module", autouse=True)
def _no_connection_left() -> Iterator[None]:
    """Feast's DuckDB store opens Ibis's default one, which nobody closes: DuckDB then ends with a page of leaks."""
    yield
    opened, ibis.options.default_backend = ibis.options.default_backend, None
    if opened is not None:
        opened.disconnect()


def repository(folder: Path, offline: dict[str, Any], views: list[Any]) -> FeatureStore:
    """A Feast repository of ``views``."""
    registry = {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 0}
    config = RepoConfig(project="p", provider="local", registry=registry, offline_store=offline, repo_path=folder,
                        online_store={"type": "sqlite", "path": str(folder / "online.db")},
                        entity_key_serialization_version=3)  # fmt: skip
    store = FeatureStore(config=config)
    names = sorted({name for view in views for name in view.entities})
    store.apply([*(Entity(name=name, join_keys=[name], value_type=ValueType.STRING) for name in names), *views])
    return store


def iceberg(folder: Path) -> Open:
    """Opens ours."""
    storage = Storage(home=str(folder / "var"))
    offline = {"type": "raysaas.features.feast_offline.IcebergOfflineStore", "home": storage.home,
               "catalog_url": storage.catalog_url, "warehouse": storage.warehouse}  # fmt: skip

    def open_store(views: dict[str, Given]) -> FeatureStore:
        for name, given in views.items():
            Tables(storage).append(f"features.{name}", given.table())
        return repository(folder, offline, [
            given.view(name, IcebergSource(name=name, table=f"features.{name}", timestamp_field=given.time,
                                           field_mapping=given.mapping))
            for name, given in views.items()
        ])  # fmt: skip

    return open_store


def files(folder: Path, kind: str) -> Open:
    """Opens one of Feast's own stores over Parquet files."""

    def open_store(views: dict[str, Given]) -> FeatureStore:
        for name, given in views.items():
            pq.write_table(given.table(), folder / f"{name}.parquet")
        return repository(folder, {"type": kind}, [
            given.view(name, FileSource(name=name, path=str(folder / f"{name}.parquet"), timestamp_field=given.time,
                                        created_timestamp_column="known_at", field_mapping=given.mapping))
            for name, given in views.items()
        ])  # fmt: skip

    return open_store


class TestIcebergOfflineStore(OfflineStoreContract):
    """The whole contract on our store."""

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Open:
        return iceberg(tmp_path)


@pytest.mark.parametrize(
    ("kind", "question"),
    [
        ("duckdb", "of_equal_times_the_last_known_and_then_the_last_row_counts"),
        ("file", "of_equal_times_the_last_known_and_then_the_last_row_counts"),
        ("file", "rows_keep_their_order_their_copies_and_their_columns"),
        ("file", "what_is_not_known_is_null"),
        ("file", "a_ttl_is_inclusive"),
    ],
)
def test_feasts_own_stores_answer_otherwise_on_the_same_rows(tmp_path: Path, kind: str, question: str) -> None:
    ask = getattr(OfflineStoreContract(), f"test_{question}")
    ask(iceberg(tmp_path / "ours"))
    (tmp_path / "theirs").mkdir()
    with pytest.raises(AssertionError):
        ask(files(tmp_path / "theirs", kind))


@pytest.mark.parametrize("kind", ["duckdb", "file"])
def test_random_rows_are_answered_as_by_a_loop_by_ours_only(tmp_path: Path, kind: str) -> None:
    ask = OfflineStoreContract().test_random_rows_are_answered_as_by_a_loop
    ask(iceberg(tmp_path / "ours"), 0)
    (tmp_path / "theirs").mkdir()
    with pytest.raises((AssertionError, ValueError)):
        ask(files(tmp_path / "theirs", kind), 0)
