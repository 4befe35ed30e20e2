"""Which online rows a version of a feature service reads, so that a change of features never reaches an older model.

The rows of a view's definition have a name of their own, a generation: ``VIEW@DIGEST``. A materialisation writes
generations to the end and then publishes: in one step the views' plain names point at them and the service is
recorded under its hash. A model keeps to the service that it was trained on: the rows of its own definitions, or the
newest ones of a view that since only gained features.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

from raysaas.stores.online import OnlineStore


@dataclass(frozen=True, slots=True)
class OnlineView:
    """One view of a service: its name, the generation of its rows, its TTL, and a digest of each feature's
    definition."""

    name: str
    rows: str
    ttl_s: float | None
    features: Mapping[str, str]

    def covers(self, other: "OnlineView") -> bool:
        """Whether every feature of ``other`` is here, defined the same and as fresh."""
        same = (self.name, self.ttl_s) == (other.name, other.ttl_s)
        return same and self.features.items() >= other.features.items()


@dataclass(frozen=True, slots=True)
class OnlineService:
    """The online side of one version of a use case's feature service."""

    use_case: str
    hash: str
    views: tuple[OnlineView, ...]


def plain_name(rows: str) -> str:
    """The view of a generation."""
    return rows.partition("@")[0]


def publish(store: OnlineStore, service: OnlineService) -> None:
    """Make ``service`` the current one of its use case, at once for all its views, whose rows are written."""
    records = {f"{_prefix(service.use_case)}{service.hash}": json.dumps(asdict(service))}
    pointers = {view.name: view.rows for view in service.views}
    store.rows.publish(pointers, {**records, _current(service.use_case): service.hash})


def current(store: OnlineStore, use_case: str) -> str:
    """Hash of the service that was published last; empty before the first."""
    return store.rows.records().get(_current(use_case), "")


def reading(store: OnlineStore, use_case: str, service_hash: str) -> dict[str, float | None] | None:
    """What a model of the service ``service_hash`` reads: TTL in seconds by name of rows.

    None when that service was never published: then the views' plain names are all there is.
    """
    services, current = _services(store, use_case)
    own = services.get(service_hash)
    if own is None:
        return None
    newest = {view.name: view for view in services[current].views}
    views = [_freshest(view, newest.get(view.name)) for view in own.views]
    return {view.rows: view.ttl_s for view in views}


def retire(store: OnlineStore, use_case: str, keep: Collection[str]) -> list[str]:
    """Drop the services whose hash is neither current nor in ``keep``, and the generations that only they read.

    Returns the names of those generations.
    """
    services, current = _services(store, use_case)
    kept = {*keep, current}
    needed = {view.rows for service in services.values() if service.hash in kept for view in service.views}
    gone = [service for service in services.values() if service.hash not in kept]
    rows = sorted({view.rows for service in gone for view in service.views} - needed)
    store.rows.retire(rows, [f"{_prefix(use_case)}{service.hash}" for service in gone])
    return rows


def _freshest(own: OnlineView, newest: OnlineView | None) -> OnlineView:
    return newest if newest is not None and newest.covers(own) else own


def _services(store: OnlineStore, use_case: str) -> tuple[dict[str, OnlineService], str]:
    records, prefix = store.rows.records(), _prefix(use_case)
    found = [json.loads(body) for name, body in records.items() if name.startswith(prefix)]
    services = [
        OnlineService(body["use_case"], body["hash"], tuple(OnlineView(**view) for view in body["views"]))
        for body in found
    ]
    return {service.hash: service for service in services}, records.get(_current(use_case), "")


def _prefix(use_case: str) -> str:
    return f"service/{use_case}/"


def _current(use_case: str) -> str:
    return f"current/{use_case}"
