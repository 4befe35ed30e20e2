"""Online rows of just the entities that something happened to, up to date in a moment."""

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import And, In

from raysaas.features.definitions import KEYS, STAMP
from raysaas.features.examples import entities_at
from raysaas.features.fingerprint import online_service
from raysaas.features.online import online_store
from raysaas.features.raw import Raw, pins, raw
from raysaas.features.views import latest_rows, schema_of, view_rows
from raysaas.records import Snapshot
from raysaas.settings import Settings
from raysaas.stores.generations import current, publish
from raysaas.stores.online import online_ttls, online_view
from raysaas.stores.tables import Tables

_LOG = logging.getLogger(__name__)
_AT_ONCE, _AT_MOST = 1_000, 20_000


def refresh(settings: Settings, tables: Tables, entities: pa.Table, at: datetime | None = None) -> int:
    """Bring the online rows of ``entities`` (``tenant, entity``) to the time ``at``; returns how many were written.

    They become what :func:`raysaas.features.build.materialize` would make them at that time; without ``at`` that is the
    newest time in their own rows, of events or of knowledge. Of the raw tables only their rows are read, so that a
    hundred entities of a million rows take less than a second. Entities that are no examples then are left as they are,
    and so are all when conf has changed the features since the last materialisation: 0 is returned, with a warning.
    """
    case = settings.use_case
    if case.sources[case.examples.source].entity is None or not entities.num_rows:
        return 0
    snapshots, now = pins(case, tables, None), datetime.now(UTC)
    keys = entities.select(KEYS).group_by(KEYS).aggregate([])
    written = 0
    for start in range(0, keys.num_rows, _AT_ONCE):
        some = keys.slice(start, _AT_ONCE)
        among = And(*(In(key, some[key].unique().to_pylist()) for key in KEYS))
        sources = raw(case, tables, now, snapshots, among)
        written += _write(settings, sources, some, at or sources.newest())
    return written


def arrived(settings: Settings, tables: Tables, snapshots: Iterable[Snapshot]) -> int:
    """:func:`refresh` whoever has a row in ``snapshots``; more than a refresh is meant for are left to materialize."""
    names = [(one.table, one.snapshot_id) for one in snapshots if one.num_accepted]
    added = [tables.added(table, snapshot, KEYS).group_by(KEYS).aggregate([]) for table, snapshot in names]
    if not added:
        return 0
    entities = pa.concat_tables(added).group_by(KEYS).aggregate([])
    if entities.num_rows > _AT_MOST:
        _LOG.warning("%d entities arrived at once: run materialize to bring them online.", entities.num_rows)
        return 0
    return refresh(settings, tables, entities.filter(pc.is_valid(entities["entity"])))


def _write(settings: Settings, sources: Raw, keys: pa.Table, at: datetime) -> int:
    case, store = settings.use_case, online_store(settings)
    # Each key was asked for, but not each pair of a tenant and an entity among them.
    asked = entities_at(case, sources, at).join(keys, KEYS, join_type="inner")
    rows = dict(feature_rows(settings, sources, asked, at))
    service = online_service(case, {name: schema_of(table) for name, table in rows.items()})
    published = current(store, case.name)
    if published and published != service.hash:
        _LOG.warning("The features of %s changed in conf: run materialize; until then they stay.", case.name)
        return 0
    for view, table in zip(service.views, rows.values(), strict=True):
        store.write(view.rows, table)
    if not published:
        publish(store, service)
    return int(asked.num_rows)


def feature_rows(settings: Settings, sources: Raw, asked: pa.Table, at: datetime) -> Iterator[tuple[str, pa.Table]]:
    """Name of each view and the rows that are online at ``at`` for the entities ``asked``."""
    asks = asked.select(KEYS).append_column("event_time", pa.array([at] * asked.num_rows, STAMP))
    ttls = online_ttls(settings.use_case)
    for name, rows in view_rows(settings.use_case, sources, asks, settings.features):
        ttl_s = ttls.get(online_view(settings.use_case.name, name))
        yield name, latest_rows(rows, asks, at, None if ttl_s is None else timedelta(seconds=ttl_s))
