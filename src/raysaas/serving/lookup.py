"""Rows of a request with the features that are kept online filled in."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from raysaas.errors import InputError
from raysaas.models.encode import Encoder
from raysaas.serving.protocol import PredictRequest
from raysaas.serving.spec import AppSpec
from raysaas.stores.generations import reading
from raysaas.stores.online import OnlineStore


class Looked(NamedTuple):
    """One row to score. ``features_at`` is the event time (microseconds) of each online row that it was completed
    from, by the name of its generation; ``given`` names what the request gave. Both None for a row without entity."""

    values: Mapping[str, Any]
    features_at: Mapping[str, int] | None = None
    given: Sequence[str] | None = None


class Lookup:
    """Reads online features by entity; values that a request gives win.

    A model reads the rows of the feature service that it was trained on (:mod:`raysaas.stores.generations`). What that
    is, is known from the last :meth:`refresh`, so that a request costs one read.
    """

    def __init__(self, spec: AppSpec) -> None:
        self.spec = spec
        self._store = OnlineStore(str(spec.storage.online_url)) if spec.views else None
        self._plain: Mapping[str, float | None] = {view: spec.ttls_s.get(view) for view in spec.views}
        self._readings: Mapping[str, Mapping[str, float | None]] = {}

    def refresh(self, services: Collection[str]) -> None:
        """Look up which rows models of these feature services (by hash) read now; Unavailable when that is away."""
        if self._store is not None:
            self._readings = {service: self._reading(self._store, service) for service in services}

    def rows(
        self, tenant: str, request: PredictRequest, encoder: Encoder, service: str = "", *, strict: bool = True
    ) -> Sequence[Looked]:
        """The instances of ``request``, completed with the online features of their entities.

        Raises InputError, when ``strict``, for an entity that has no features online and no instance of its own.
        """
        if not request.by_entity:
            return [Looked(row) for row in request.instances]
        found = self._read(tenant, request.entities, service)
        names = {field.source_name: field.name for field in encoder.fields}
        wanted = {field.name for field in encoder.fields}
        rows = []
        for index, (instance, stored) in enumerate(zip(request.instances, found, strict=True)):
            values, times = stored or ({}, {})
            if strict and not times and not instance:
                raise InputError(f"entities[{index}] has no features online: send its values in 'instances'.")
            # NaN is how a packed row spells a missing number; a request spells it null.
            features = {name: value for name, value in values.items() if name in wanted and value == value}
            given = {names.get(key, key): value for key, value in instance.items()}
            rows.append(Looked(features | given, times if stored else None, list(given) if stored else None))
        return rows

    def _read(
        self, tenant: str, entities: Sequence[str | None], service: str
    ) -> list[tuple[dict[str, Any], dict[str, int]] | None]:
        if self._store is None:
            return [None] * len(entities)
        views = self._readings.get(service) or self._reading(self._store, service)
        ttls = {view: ttl_s for view, ttl_s in views.items() if ttl_s is not None}
        keys = [(tenant, entity) for entity in entities if entity is not None]
        dated = iter(self._store.read_dated(list(views), keys, ttls_s=ttls))
        return [None if entity is None else next(dated) for entity in entities]

    def _reading(self, store: OnlineStore, service: str) -> Mapping[str, float | None]:
        return (reading(store, self.spec.use_case, service) if service else None) or self._plain
