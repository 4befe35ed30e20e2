"""From raw snapshots to a training set, and to the online rows that a served model reads.

Both run the same way: pin the sources, make the views' feature rows, put them in Iceberg, apply the Feast definitions.
"""

import fcntl
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.definitions import KEYS, STAMP, FeatureRepo, ViewRows, features_table, repo_folder, repository
from raysaas.features.examples import entities_at, examples
from raysaas.features.feedback import feedback, with_feedback
from raysaas.features.known_rows import StoredRows
from raysaas.features.online import write_all
from raysaas.features.raw import LOGS, Raw, pins, raw
from raysaas.features.rebuild import check_same, definitions
from raysaas.features.split import split
from raysaas.features.views import is_windowed, latest_rows, row_maker, schema_of, view_names, window_rows
from raysaas.records import TrainingSet, plain
from raysaas.settings import Settings
from raysaas.stores.datafiles import NewFiles, data_files, new_files
from raysaas.stores.tables import MADE_FROM, Tables
from raysaas.use_case import ExampleKind, UseCase

if TYPE_CHECKING:
    from feast import FeatureStore

_LOG = logging.getLogger(__name__)
_FIXED = ["row_id", "tenant", "entity", "event_time", "known_at", "split", "label"]


def training_set(
    settings: Settings, tables: Tables, *, as_of: datetime | None = None, now: datetime, was: TrainingSet | None = None
) -> tuple[TrainingSet, pa.Table]:
    """Build, store and return the examples known by ``as_of`` (``now`` if None) with their features as of each
    example.

    The table has ``row_id, tenant, entity, event_time, known_at, split, label`` and the features, sorted by time and
    row id. Constant and empty feature columns are dropped with a warning. With ``was`` the set that it describes is
    built again, from the snapshots that one was built from. Raises InputError when there is nothing to learn,
    ConfigError when the rows are not those of ``was``.
    """
    use_case, known = settings.use_case, was.known_at if was else as_of or now
    snapshots = was.snapshots if was else pins(use_case, tables, as_of)
    sources = raw(use_case, tables, known, snapshots, features=settings.features)
    asked = examples(use_case, sources)
    with _only_builder(settings):
        repo, store = _publish(settings, tables, sources, asked)
        table = _with_split(_retrieve(store, repo, asked), use_case)
    rows = feedback(use_case, tables, known, snapshots) if settings.use_case.examples.feedback else None
    if rows is None:  # A log that others write to as well is no part of a set that has none of its rows.
        snapshots = {name: snapshot for name, snapshot in snapshots.items() if name not in LOGS}
    else:
        table = with_feedback(table, rows, use_case)
    table, warnings = _learnable(table.sort_by([("event_time", "ascending"), ("row_id", "ascending")]))
    made = TrainingSet(
        use_case=use_case.name,
        table=f"training.{use_case.name}",
        snapshot_id=0,
        snapshots=snapshots,
        feature_service=use_case.name,
        feature_service_hash=repo.hash,
        as_of=known,
        known_at=known,
        num_rows=table.num_rows,
        content_hash=content_hash(table),
        definitions=definitions(use_case),
        warnings=tuple(warnings),
    )
    if was:
        check_same(was, made)
    return replace(made, snapshot_id=_kept(tables, made, table, was)), table


def _kept(tables: Tables, made: TrainingSet, table: pa.Table, was: TrainingSet | None) -> int:
    """The snapshot that holds a set's rows: the one of equal rows where it is still there, else a new one."""
    if was and any(item["snapshot_id"] == was.snapshot_id for item in tables.snapshots(was.table)):
        return was.snapshot_id
    return tables.overwrite(made.table, table, {MADE_FROM: json.dumps(plain(made))})


def materialize(settings: Settings, tables: Tables, now: datetime) -> int:
    """Bring the online rows up to date and return the number of entities in them.

    The rows are those of ``now``, or of the newest event where the data are historic: a replayed 1997 has no last 30
    days today. Each column view keeps its entities' newest row. Without an entity column there is nothing to look up:
    0.
    """
    use_case = settings.use_case
    sources = raw(use_case, tables, now, pins(use_case, tables, None), features=settings.features)
    at = sources.newest_event()
    entities = entities_at(use_case, sources, at)
    asks = entities.append_column("event_time", pa.array([at] * entities.num_rows, STAMP))
    with _only_builder(settings):
        repo, store = _publish(settings, tables, sources, asks)
        if use_case.sources[use_case.examples.source].entity is None:
            return 0
        return _write_online(settings, tables, repo, store, entities, at)


def content_hash(table: pa.Table) -> str:
    """SHA-256 over the rows in order of ``row_id`` and the columns by name: equal for equal rows, however they lie."""
    table = table.sort_by("row_id") if "row_id" in table.column_names else table
    digest = hashlib.sha256()
    for name in sorted(table.column_names):
        column = table[name].combine_chunks()
        digest.update(f"{name}:{column.type}:{len(column)}".encode())
        digest.update(pc.is_valid(column).cast(pa.uint8()).to_numpy(zero_copy_only=False).tobytes())
        digest.update(_content(column))
    return digest.hexdigest()


def _content(column: pa.Array) -> bytes:
    if pa.types.is_string(column.type):
        column = column.fill_null("").cast(pa.large_string())
        _, offsets, data = column.buffers()
        ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        return np.diff(ends).tobytes() + (data or b"")[int(ends[0]) : int(ends[-1])]
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    return bytes(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())


@contextmanager
def _only_builder(settings: Settings) -> Iterator[None]:
    """Wait for other jobs that build this use case: Feast's registry file has no lock of its own."""
    folder = repo_folder(settings.use_case.name, settings.storage)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "build.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _publish(settings: Settings, tables: Tables, sources: Raw, asks: pa.Table) -> "tuple[FeatureRepo, FeatureStore]":
    """Put the views' rows in Iceberg and the definitions over exactly those snapshots in Feast's registry."""
    use_case, views = settings.use_case, {}
    for name in view_names(use_case):
        views[name] = _stored(use_case, name, tables, sources, asks)
    repo = repository(use_case, views, settings.storage, settings.features)
    with redirect_stdout(sys.stderr):
        return repo, repo.apply()


def _stored(use_case: UseCase, name: str, tables: Tables, sources: Raw, asks: pa.Table) -> ViewRows:
    """Make the rows of a view and put them in its table; more than one process may hold never come here."""
    table = features_table(use_case.name, name)
    if is_windowed(use_case, name):
        rows = window_rows(use_case, name, sources, asks)
    else:
        made_of, make = row_maker(use_case, name, sources)
        if isinstance(made_of, StoredRows):
            schema = make(made_of.empty()).schema
            _check_names(name, schema_of(schema).names)
            files = made_of.mapped(partial(_written, make, new_files(tables, table, schema)))
            return ViewRows(schema_of(schema), tables.replace_files(table, chain.from_iterable(files)))
        rows = make(made_of.read())
    _check_names(name, schema_of(rows).names)
    return ViewRows(schema_of(rows), tables.overwrite(table, rows))


def _written(make: Callable[[pa.Table], pa.Table], files: NewFiles, rows: pa.Table) -> list[str]:
    return files.write(make(rows))


def _check_names(view: str, names: list[str]) -> None:
    reserved = sorted({"label", "split", "moment"} & set(names))
    if reserved:
        raise InputError(f"view {view!r} has features named {reserved}: give them another key in conf, and 'column'.")
    if not names:
        raise InputError(f"view {view!r} has no feature: no column of its source can be one.")


def _retrieve(store: "FeatureStore", repo: FeatureRepo, asked: pa.Table) -> pa.Table:
    with redirect_stdout(sys.stderr):
        service = store.get_feature_service(repo.use_case)
        job = store.get_historical_features(asked, service, filter_by_created_timestamp=True)
        return job.to_arrow()


def _with_split(table: pa.Table, use_case: UseCase) -> pa.Table:
    examples = use_case.examples
    timed = examples.kind is ExampleKind.cuts or use_case.sources[examples.source].time is not None
    parts = split(table, examples.split, timed=timed)
    table = table.append_column("split", parts).drop_columns(["moment"])
    return table.select([*_FIXED, *(name for name in table.column_names if name not in _FIXED)])


def _learnable(table: pa.Table) -> tuple[pa.Table, list[str]]:
    """Drop features that say nothing in the train part, with a sentence for each."""
    train, warnings = table.filter(pc.equal(table["split"], "train")), []
    for name in [name for name in table.column_names if name not in _FIXED]:
        column = train[name]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        if column.null_count == len(column) or (not column.null_count and pc.count_distinct(column).as_py() == 1):
            warnings.append(
                f"column {name!r} is {'empty' if column.null_count else 'constant'} in the train part: dropped."
            )
            table = table.drop_columns([name])
    if len(table.column_names) == len(_FIXED):
        raise InputError(f"no feature is left: {' '.join(warnings)}")
    for warning in warnings:
        _LOG.warning(warning)
    return table, warnings


def _write_online(
    settings: Settings, tables: Tables, repo: FeatureRepo, store: "FeatureStore", entities: pa.Table, at: datetime
) -> int:
    # Straight from Arrow: Feast's own way goes through numpy, which rounds integers beside nulls and loses NaN.
    def rows() -> Iterator[tuple[str, pa.Table]]:
        for view in repo.views():
            source = view.batch_source
            columns = [*KEYS, "event_time", "known_at", *(field.name for field in view.features)]
            found = data_files(tables, source.table, snapshot=source.snapshot, columns=columns)
            yield view.name, latest_rows(found, entities, at, view.ttl or None, settings.features)

    write_all(settings, repo.online, rows())
    for view in repo.views():
        store.registry.apply_materialization(view, store.project, at - timedelta(days=1), at)
    return int(entities.num_rows)
