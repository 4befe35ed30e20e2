"""Feast's online store over :class:`raysaas.stores.online.OnlineStore`, in SQLite or Redis.

Feast loads it by its dotted path in ``feature_store.yaml``. A view that the platform materialised is read under its
plain name, so in its newest generation. Statuses are those that ``ServingService.proto`` describes: a null feature is
NULL_VALUE, one of a row past its view's TTL OUTSIDE_MAX_AGE. Source: feast.infra.online_stores.online_store (0.67).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from time import time
from typing import Any, Literal

from feast import Entity, FeatureView, utils
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.type_map import feast_value_type_to_python_type, python_values_to_proto_values
from feast.value_type import ValueType

from raysaas.errors import InputError
from raysaas.stores import online
from raysaas.stores.packing import EPOCH, MICRO

_SCALARS = {
    ValueType.DOUBLE: "double_val",
    ValueType.INT64: "int64_val",
    ValueType.BOOL: "bool_val",
    ValueType.STRING: "string_val",
    ValueType.BYTES: "bytes_val",
}
Written = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]
Cell = tuple[int, Mapping[str, Any]] | None
_NULL = ValueProto()


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """``url`` is ``sqlite:///PATH``, ``redis://...`` or ``rediss://...``."""

    type: Literal["raysaas.features.feast_online.PackedOnlineStore"] = "raysaas.features.feast_online.PackedOnlineStore"
    url: str = "sqlite:///var/online.db"


class PackedOnlineStore(OnlineStore):
    """One packed row per (view, tenant, entity); an older event never replaces a newer one."""

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Written], progress: Callable[[int], Any] | None
    ) -> None:
        """Write rows whose entity key holds ``tenant`` and ``entity``."""
        rows = (
            (*_key(key), moment, {name: feast_value_type_to_python_type(value) for name, value in values.items()})
            for key, values, moment, _ in data
        )
        written = _store(config.online_store.url).write(table.name, rows)
        if progress:
            progress(written)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, ValueProto] | None]]:
        """Event time and values per key, (None, None) where there is no row or it is older than the view's TTL."""
        wanted = requested_features or [field.name for field in table.features]
        kinds, floor = _kinds(table, wanted), _floor(table)
        (cells,) = _cells(config.online_store.url, [table], [_key(key) for key in entity_keys])
        return [
            (None, None)
            if cell is None or cell[0] < floor
            else (EPOCH + cell[0] * MICRO, {name: _proto(cell[1].get(name), kind) for name, kind in kinds.items()})
            for cell in cells
        ]

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, Any],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: GetOnlineFeaturesResponse,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """All views of entities in one read; Feast leaves this to a store that batches."""
        asked: dict[tuple[online.Key, ...], list[tuple[FeatureView, list[str], Sequence[list[int]]]]] = {}
        for view, features in grouped_refs:
            values, places, _ = utils._get_unique_entities(view, join_key_values, entity_name_to_join_key_map)
            keys = tuple(_key(key) for key in utils._get_entity_key_protos(values))
            asked.setdefault(keys, []).append((view, features, places))
        for keys, group in asked.items():
            columns = _cells(config.online_store.url, [view for view, _, _ in group], keys)
            for (view, features, places), cells in zip(group, columns, strict=True):
                prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
                online_features_response.metadata.feature_names.val.extend(prefix + name for name in features)
                online_features_response.results.extend(_vectors(view, features, cells, places))

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Forget deleted views; generations that a released model reads stay."""
        for view in tables_to_delete:
            _store(config.online_store.url).drop(view.name)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Forget ``tables``, as :meth:`update` does."""
        self.update(config, tables, [], entities, [], partial=True)


@cache
def _store(url: str) -> online.OnlineStore:
    return online.OnlineStore(url)


def _key(key: EntityKeyProto) -> online.Key:
    values = {name: value.string_val for name, value in zip(key.join_keys, key.entity_values, strict=True)}
    if set(values) != {"tenant", "entity"}:
        raise InputError(f"join keys {sorted(values)} are not allowed online: expected tenant and entity.")
    return values["tenant"], values["entity"]


def _cells(url: str, views: Sequence[FeatureView], keys: Sequence[online.Key]) -> list[list[Cell]]:
    """For each view, event time and values by name of each key's row."""
    columns = _store(url).rows.get([view.name for view in views], keys)
    return [
        [
            None if moment is None else (moment, dict(zip(column.names, values or (), strict=False)))
            for moment, values in zip(column.times, column.values, strict=True)
        ]
        for column in columns
    ]


def _vectors(
    view: FeatureView, features: Sequence[str], cells: Sequence[Cell], places: Sequence[list[int]]
) -> Iterator[Any]:
    """A column of the answer per feature; ``places`` are the rows of the answer that a cell goes to."""
    floor, kinds = _floor(view), _kinds(view, features)
    order = [number for _, number in sorted((place, n) for n, group in enumerate(places) for place in group)]
    for name, kind in kinds.items():
        answers = [_answer(cell, name, kind, floor) for cell in cells]
        vector = GetOnlineFeaturesResponse.FeatureVector(
            values=[answers[n][0] for n in order], statuses=[answers[n][1] for n in order]
        )
        for n in order:
            cell, stamp = cells[n], vector.event_timestamps.add()
            if cell is not None:
                stamp.FromMicroseconds(cell[0])
        yield vector


def _answer(cell: Cell, name: str, kind: ValueType, floor: int) -> tuple[ValueProto, Any]:
    if cell is None:
        return _NULL, FieldStatus.NOT_FOUND
    if cell[0] < floor:
        return _NULL, FieldStatus.OUTSIDE_MAX_AGE
    value = cell[1].get(name)
    return (_NULL, FieldStatus.NULL_VALUE) if value is None else (_proto(value, kind), FieldStatus.PRESENT)


def _floor(view: FeatureView) -> int:
    """The oldest event time, in microseconds, that counts now."""
    return int(time() * 1e6) - view.ttl // MICRO if view.ttl else -(2**63)


def _kinds(view: FeatureView, wanted: Sequence[str]) -> dict[str, ValueType]:
    kinds = {field.name: field.dtype.to_value_type() for field in view.features}
    return {name: kinds[name] for name in wanted}


def _proto(value: Any, kind: ValueType) -> ValueProto:
    if value is None:
        return _NULL
    if kind in _SCALARS:
        return ValueProto(**{_SCALARS[kind]: value})
    protos: list[ValueProto] = python_values_to_proto_values([value], kind)
    return protos[0]
