"""Feast's online store over :class:`raysaas.stores.online.OnlineStore`.

Feast loads it by its dotted path in ``feature_store.yaml``. Source: feast.infra.online_stores.online_store (0.67).
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType

from raysaas.errors import InputError
from raysaas.stores import online

_SCALARS = {
    ValueType.DOUBLE: "double_val",
    ValueType.INT64: "int64_val",
    ValueType.BOOL: "bool_val",
    ValueType.STRING: "string_val",
}
Written = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """``path`` of the SQLite file."""

    type: Literal["raysaas.features.feast_online.PackedOnlineStore"] = "raysaas.features.feast_online.PackedOnlineStore"
    path: str = "var/online.db"


class PackedOnlineStore(OnlineStore):
    """One packed row per (view, tenant, entity); an older event never replaces a newer one."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Written], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows whose entity key holds ``tenant`` and ``entity``."""
        rows = (
            (*_key(key), moment, {name: _python(value) for name, value in values.items()})
            for key, values, moment, _ in data
        )
        written = _store(config.online_store.path).write(table.name, rows)
        if progress:
            progress(written)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Event time and values per key, (None, None) where there is no row."""
        found = _store(config.online_store.path).read_rows(table.name, [_key(key) for key in entity_keys])
        wanted = set(requested_features or [field.name for field in table.features])
        kinds = {field.name: field.dtype.to_value_type() for field in table.features if field.name in wanted}
        return [(None, None) if row is None else (row[0], _protos(row[1], kinds)) for row in found]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Forget the rows of deleted views."""
        for view in tables_to_delete:
            _store(config.online_store.path).drop(view.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Forget the rows of ``tables``."""
        for view in tables:
            _store(config.online_store.path).drop(view.name)


@cache
def _store(path: str) -> online.OnlineStore:
    return online.OnlineStore(path)


def _key(key: EntityKeyProto) -> online.Key:
    values = {name: value.string_val for name, value in zip(key.join_keys, key.entity_values, strict=True)}
    if set(values) != {"tenant", "entity"}:
        raise InputError(f"join keys {sorted(values)} are not allowed online: expected tenant and entity.")
    return values["tenant"], values["entity"]


def _python(value: ValueProto) -> Any:
    return feast_value_type_to_python_type(value)


def _protos(values: Mapping[str, Any], kinds: Mapping[str, ValueType]) -> dict[str, ValueProto]:
    return {name: _proto(values.get(name), kind) for name, kind in kinds.items()}


def _proto(value: Any, kind: ValueType) -> ValueProto:
    if value is None:
        return ValueProto()
    if kind in _SCALARS:
        return ValueProto(**{_SCALARS[kind]: value})
    protos: list[ValueProto] = python_values_to_proto_values([value], kind)
    return protos[0]
