"""Rows of a request with the features that are kept online filled in."""

from collections.abc import Mapping, Sequence
from typing import Any

from raysaas.errors import InputError
from raysaas.models.encode import Encoder
from raysaas.serving.protocol import PredictRequest
from raysaas.serving.spec import AppSpec
from raysaas.stores.online import OnlineStore


class Lookup:
    """Reads online features by entity; values that a request gives win."""

    def __init__(self, spec: AppSpec) -> None:
        self.spec = spec
        self._store = OnlineStore(str(spec.storage.online_path)) if spec.views else None

    def rows(self, tenant: str, request: PredictRequest, encoder: Encoder) -> Sequence[Mapping[str, Any]]:
        """The instances of ``request``, completed with the online features of their entities.

        Raises InputError for an entity that has no features online and no instance of its own.
        """
        if not request.by_entity:
            return request.instances
        found = self._read(tenant, request.entities)
        names = {field.source_name: field.name for field in encoder.fields}
        wanted = {field.name for field in encoder.fields}
        rows = []
        for index, (given, stored) in enumerate(zip(request.instances, found, strict=True)):
            if stored is None and not given:
                raise InputError(f"entities[{index}] has no features online: send its values in 'instances'.")
            # NaN is how a packed row spells a missing number; a request spells it null.
            features = {name: value for name, value in (stored or {}).items() if name in wanted and value == value}
            rows.append(features | {names.get(key, key): value for key, value in given.items()})
        return rows

    def _read(self, tenant: str, entities: Sequence[str | None]) -> list[dict[str, Any] | None]:
        if self._store is None:
            return [None] * len(entities)
        keys = [(tenant, entity) for entity in entities if entity is not None]
        found = iter(self._store.read_many(self.spec.views, keys))
        return [None if entity is None else next(found) for entity in entities]
