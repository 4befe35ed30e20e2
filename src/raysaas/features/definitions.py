"""Feast objects of a use case: entities, one view per view of its conf, one service, and the repository they live in.

A use case is a Feast project with its own registry under ``<home>/feast/<use_case>/``; ``feast -c`` that folder works.
The join keys are (tenant, entity): entity ids may collide between tenants, and no tenant sees another's rows. Feast
takes 5 s to import, so this module does it on the first call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from raysaas.features.fingerprint import online_service
from raysaas.settings import Features, Storage
from raysaas.stores.generations import OnlineService
from raysaas.stores.online import online_view
from raysaas.use_case import UseCase

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

KEYS = ["tenant", "entity"]
CONTEXT = ["row_id", *KEYS, "event_time", "known_at"]
STAMP = pa.timestamp("us", "UTC")


def features_table(use_case: str, view: str) -> str:
    """Iceberg table that holds a view's rows."""
    return f"features.{online_view(use_case, view)}"


def repo_folder(use_case: str, storage: Storage) -> Path:
    """Folder of a use case's Feast repository."""
    return Path(storage.home) / "feast" / use_case


@dataclass(frozen=True, slots=True)
class ViewRows:
    """Where a view's rows are: Arrow schema of its features, Iceberg snapshot."""

    schema: pa.Schema
    snapshot: int | None = None


@dataclass(frozen=True, slots=True)
class FeatureRepo:
    """A use case's Feast repository. ``online`` says the same of its rows online; its hash is that of the features,
    equal for equal names, types, definitions and TTLs."""

    use_case: str
    folder: Path
    config: Mapping[str, Any]
    objects: tuple[Any, ...]
    online: OnlineService

    @property
    def hash(self) -> str:
        """Digest of the feature service."""
        return self.online.hash

    def apply(self) -> "FeatureStore":
        """Write ``feature_store.yaml``, apply the definitions, forget views that left conf, and return the Feast
        store."""
        from feast import FeatureStore
        from feast.repo_config import RepoConfig

        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "feature_store.yaml").write_text(yaml.safe_dump(dict(self.config), sort_keys=False))
        store = FeatureStore(config=RepoConfig(repo_path=self.folder, **self.config))
        names = {item.name for item in self.objects}
        stale = [view for view in store.list_feature_views() if view.name not in names]
        store.apply(list(self.objects), objects_to_delete=stale, partial=not stale)
        return store

    def views(self) -> "list[FeatureView]":
        """The feature views among the objects."""
        from feast import FeatureView

        return [item for item in self.objects if isinstance(item, FeatureView)]


def repository(
    use_case: UseCase, views: Mapping[str, ViewRows], storage: Storage, features: Features | None = None
) -> FeatureRepo:
    """Feast objects of ``use_case``, whose views have the given rows."""
    from feast import Entity, FeatureService, ValueType

    folder = repo_folder(use_case.name, storage)
    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in KEYS]
    feature_views = [_view(use_case, name, rows, entities) for name, rows in views.items()]
    service = FeatureService(name=use_case.name, features=feature_views, description=use_case.title)
    return FeatureRepo(
        use_case.name,
        folder,
        _config(use_case.name, folder, storage, features or Features()),
        (*entities, *feature_views, service),
        online_service(use_case, {name: rows.schema for name, rows in views.items()}),
    )


def _config(project: str, folder: Path, storage: Storage, features: Features) -> dict[str, Any]:
    return {
        "project": project,
        "provider": "local",
        "registry": {"registry_type": "file", "path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        "offline_store": {
            "type": "raysaas.features.feast_offline.IcebergOfflineStore",
            "home": storage.home,
            "catalog_url": storage.catalog_url,
            "warehouse": storage.warehouse,
            "partitions": features.partitions,
            "rows_per_partition": features.rows_per_partition,
        },
        "online_store": {"type": "raysaas.features.feast_online.PackedOnlineStore", "url": storage.online_url},
        "entity_key_serialization_version": 3,
    }


def _ttl(use_case: UseCase, view: str) -> timedelta | None:
    days = use_case.views[view].ttl_days if view in use_case.views else None
    return None if days is None else timedelta(days=days)


def _view(use_case: UseCase, name: str, rows: ViewRows, entities: list[Any]) -> "FeatureView":
    from feast import FeatureView, Field
    from feast.type_map import pa_to_feast_value_type
    from feast.types import String, from_value_type

    from raysaas.features.feast_source import IcebergSource

    fields = [
        Field(name=field.name, dtype=from_value_type(pa_to_feast_value_type(str(field.type)))) for field in rows.schema
    ]
    full, table = online_view(use_case.name, name), features_table(use_case.name, name)
    return FeatureView(
        name=full,
        entities=entities,
        ttl=_ttl(use_case, name),
        online=True,
        tags={"use_case": use_case.name},
        schema=[*(Field(name=key, dtype=String) for key in KEYS), *fields],
        source=IcebergSource(name=full, table=table, snapshot=rows.snapshot),
    )
