"""Feast's offline store over the platform's Iceberg tables, with a join that honours event time, TTL and known-at.

Feast loads it by its dotted path in ``feature_store.yaml``. Source: feast.infra.offline_stores.offline_store (0.67).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView, OnDemandFeatureView
from feast.data_source import DataSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from raysaas.errors import InputError
from raysaas.features.asof import asof_join
from raysaas.features.fanout import partitioned
from raysaas.features.feast_source import IcebergSource, tables_of
from raysaas.stores.datafiles import DataFiles, data_files

_AT = "__event_time"


class IcebergOfflineStoreConfig(FeastConfigBaseModel):
    """Where the tables are; ``known_at`` hides what became known later from every retrieval."""

    type: Literal["raysaas.features.feast_offline.IcebergOfflineStore"] = (
        "raysaas.features.feast_offline.IcebergOfflineStore"
    )
    home: str = "var"
    catalog_url: str | None = None
    warehouse: str | None = None
    known_at: datetime | None = None
    partitions: int = 2
    rows_per_partition: int = 2_000_000


class IcebergRetrievalJob(RetrievalJob):
    """A retrieval that runs when its result is asked for."""

    def __init__(
        self,
        retrieve: Callable[[], pa.Table],
        metadata: RetrievalMetadata | None = None,
        full_feature_names: bool = False,
        on_demand: list[OnDemandFeatureView] | None = None,
    ) -> None:
        """``retrieve`` gives the table."""
        self._retrieve, self._metadata = retrieve, metadata
        self._full, self._on_demand = full_feature_names, on_demand or []

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        # One chunk: Feast's materialisation writes only the first batch of a table.
        return self._retrieve().combine_chunks()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._retrieve().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """Whether columns are named ``view__feature``."""
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes after the join."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata


class IcebergOfflineStore(OfflineStore):
    """Feast's offline interface over :func:`raysaas.features.asof.asof_join`."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **options: Any,
    ) -> RetrievalJob:
        """Entity rows in their order plus the features asked for; ``entity_df`` is a pandas or an Arrow table."""
        if not isinstance(entity_df, pd.DataFrame | pa.Table):
            given = "a query" if isinstance(entity_df, str) else f"a {type(entity_df).__name__}"
            raise InputError(f"entity_df is {given}: expected a pandas or an Arrow table of entity rows.")
        entities = (
            entity_df if isinstance(entity_df, pa.Table) else pa.Table.from_pandas(entity_df, preserve_index=False)
        )
        known_by_event = bool(options.get("filter_by_created_timestamp"))

        def retrieve() -> pa.Table:
            joined = entities
            for view in feature_views:
                joined = _join_view(
                    config, joined, view, _wanted(view, feature_refs), full_feature_names, known_by_event
                )
            return joined

        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        features = {name for view in feature_views for name in _wanted(view, feature_refs)}
        keys = [name for name in entities.column_names if name not in features]
        return IcebergRetrievalJob(retrieve, RetrievalMetadata(feature_refs, keys), full_feature_names, on_demand)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The latest row of each key with an event time from ``start_date`` to ``end_date``."""

        def retrieve() -> pa.Table:
            rows = _files(config, data_source, [*join_key_columns, *feature_name_columns]).read()
            known = [name for name in ("known_at",) if name in rows.column_names]
            found = latest(
                rows.select([*join_key_columns, "event_time", *known, *feature_name_columns]),
                join_key_columns,
                end_date,
                end_date - start_date,
            )
            return _stored_times(found, data_source)

        return IcebergRetrievalJob(retrieve)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row with an event time from ``start_date`` to ``end_date``."""

        def retrieve() -> pa.Table:
            rows = _files(config, data_source, [*join_key_columns, *feature_name_columns]).read()
            for bound, keep in ((start_date, pc.greater_equal), (end_date, pc.less_equal)):
                rows = (
                    rows
                    if bound is None
                    else rows.filter(keep(rows["event_time"], pa.scalar(bound, rows["event_time"].type)))
                )
            return _stored_times(rows, data_source)

        return IcebergRetrievalJob(retrieve)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """Append rows to the table behind ``feature_view``."""
        tables_of(config).append(_source(feature_view).table, table)
        if progress:
            progress(table.num_rows)


def latest(rows: pa.Table, keys: Sequence[str], at: datetime, reach: timedelta | None = None) -> pa.Table:
    """The newest row of each key not after ``at`` and no older than ``reach``: keys, event time, features."""
    entities = rows.select(keys).group_by(list(keys), use_threads=False).aggregate([])
    moment = pa.array([at] * entities.num_rows, pa.timestamp("us", "UTC"))
    rows = rows.append_column(_AT, rows["event_time"])
    found = asof_join(entities.append_column("event_time", moment), rows, keys=keys, ttl=reach).drop_columns(
        ["event_time"]
    )
    return found.filter(pc.is_valid(found[_AT])).rename_columns({_AT: "event_time"})


def _source(view: FeatureView) -> IcebergSource:
    if not isinstance(view.batch_source, IcebergSource):
        raise InputError(
            f"feature view {view.name!r} has a {type(view.batch_source).__name__}: expected an IcebergSource."
        )
    return view.batch_source


def _files(
    config: RepoConfig, source: DataSource, columns: Sequence[str], names: Mapping[str, str] | None = None
) -> DataFiles:
    """Rows of a source with its times named ``event_time`` and ``known_at`` and its columns as ``names`` says; row
    order is that of the table."""
    if not isinstance(source, IcebergSource):
        raise InputError(f"source {source.name!r} is a {type(source).__name__}: expected an IcebergSource.")
    times = {source.timestamp_field: "event_time", source.created_timestamp_column: "known_at"}
    stored = {feature: column for column, feature in source.field_mapping.items()}
    given = {stored.get(column, column): (names or {}).get(column, column) for column in columns}
    renamed = {**given, **{old: (names or {}).get(new, new) for old, new in times.items() if old}}
    return data_files(tables_of(config), source.table, snapshot=source.snapshot, columns=list(renamed), names=renamed)


def _stored_times(rows: pa.Table, source: DataSource) -> pa.Table:
    """The times under the names that Feast knows them by."""
    names = {"event_time": source.timestamp_field, "known_at": source.created_timestamp_column or "known_at"}
    return rows.rename_columns([names.get(name, name) for name in rows.column_names])


def _wanted(view: FeatureView, feature_refs: Sequence[str]) -> list[str]:
    prefix = f"{view.projection.name_to_use()}:"
    return [ref.removeprefix(prefix) for ref in feature_refs if ref.startswith(prefix)]


def _time_column(entities: pa.Table) -> str:
    stamps: list[str] = [field.name for field in entities.schema if pa.types.is_timestamp(field.type)]
    for name in ("event_time", "event_timestamp", *stamps):
        if name in stamps:
            return name
    raise InputError(f"the entity rows have no timestamp column: they have {entities.column_names}.")


def _join_view(
    config: RepoConfig, entities: pa.Table, view: FeatureView, features: list[str], full: bool, known_by_event: bool
) -> pa.Table:
    event_time, prefix = _time_column(entities), f"{view.projection.name_to_use()}__" if full else ""
    names = {**{name: prefix + name for name in features}, **view.projection.join_key_map, "event_time": event_time}
    stored = [field.name for field in view.entity_columns]
    rows = _files(config, _source(view), [*stored, *features], names)
    keys = [names.get(name, name) for name in stored]
    store = config.offline_store
    join = partial(
        asof_join,
        keys=keys,
        event_time=event_time,
        known_at=store.known_at,
        ttl=view.ttl or None,
        known_by_event=known_by_event,
    )
    return partitioned(join, entities, rows, keys=keys, partitions=store.partitions, max_rows=store.rows_per_partition)
