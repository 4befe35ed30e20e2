"""A Feast data source that is one of the platform's Iceberg tables."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType

from raysaas.settings import Storage
from raysaas.stores.tables import Tables


class IcebergSource(DataSource):
    """A batch source that is an Iceberg table, at a pinned ``snapshot`` or the newest one."""

    def __init__(self, *, name: str, table: str, snapshot: int | None = None, **rest: Any) -> None:
        """``table`` is ``namespace.table``; the other arguments are those of Feast's DataSource."""
        times = {"timestamp_field": "event_time", "created_timestamp_column": "known_at"}
        super().__init__(name=name, **{**times, **rest})
        self.table, self.snapshot = table, snapshot

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> "IcebergSource":
        """Inverse of ``to_proto``."""
        options = json.loads(data_source.custom_options.configuration)
        return IcebergSource(
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
            **options,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        options = json.dumps({"table": self.table, "snapshot": self.snapshot}).encode()
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=f"{__name__}.IcebergSource",
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
            custom_options=DataSourceProto.CustomSourceOptions(configuration=options),
        )

    def validate(self, config: RepoConfig) -> None:
        """Raise NotFound when the table was never written."""
        tables_of(config).schema(self.table)

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Feast's own mapping from names of Arrow types."""
        kinds: Callable[[str], ValueType] = pa_to_feast_value_type
        return kinds

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:
        """Columns of the newest version with the names of their Arrow types."""
        return [(field.name, str(field.type)) for field in tables_of(config).schema(self.table)]

    def get_table_query_string(self) -> str:
        """The table's name."""
        return self.table

    def __hash__(self) -> int:
        return int(super().__hash__())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, IcebergSource)
            and super().__eq__(other)
            and ((self.table, self.snapshot) == (other.table, other.snapshot))
        )


def tables_of(config: RepoConfig) -> Tables:
    """The tables that a Feast configuration points at."""
    store = config.offline_store
    return Tables(Storage(home=store.home, catalog_url=store.catalog_url, warehouse=store.warehouse))
