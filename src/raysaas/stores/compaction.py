"""A table that is written in many small commits, kept small: data files merged, old versions expired.

A version stays while a tag or the caller names it, while it is young, and while it is among the newest. What its commit
said (files and segments taken, offsets, findings) is kept in the ledger's database and told by ``Tables.history``. Rows
are the same before and after. Every step may be killed: the next run completes it. Library: pyiceberg.
"""

import json
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update.snapshot import ExpireSnapshots

from raysaas.errors import Unavailable
from raysaas.faults import reached
from raysaas.stores.expired import recall, remember
from raysaas.stores.logs import SCHEMAS
from raysaas.stores.orphans import drop_metadata, finish, intend
from raysaas.stores.tables import BOUNDED, EXPIRED, MADE_FROM, Tables

NEWEST = 100  # so many versions stay, however old
_SMALL_BYTES, _GROUP_BYTES, _FEW = 16 << 20, 64 << 20, 8
_TRIES = 5
_CAME_FIRST = (CommitFailedException, ValidationException)
_MERGED = "raysaas.merged"  # snapshot property: how many data files the commit merged


@dataclass(frozen=True, slots=True)
class Compacted:
    """Data files merged and what they became, versions expired and those that stay, files deleted."""

    merged: int = 0
    into: int = 0
    expired: int = 0
    versions: int = 0
    deleted: int = 0


def compact(
    tables: Tables, name: str, *, before: datetime, keep: Collection[int] = (), newest: int = NEWEST
) -> Compacted:
    """Merge small data files of table ``name`` and expire versions from ``before`` that nobody names.

    ``keep`` are versions to keep beside the tagged and the ``newest``. Nobody else may ingest into the table meanwhile;
    readers of a version that expires must start again. Raises Unavailable when another writer came first.
    """
    if tables.current(name) is None:
        return Compacted()
    table = tables.table(name)
    deleted = finish(table)
    try:
        merged, into = _merge(table)
        doomed = _doomed(table, before, frozenset(keep), newest)
        if doomed:
            _expire(tables, name, table, doomed)
    except _CAME_FIRST as error:
        raise Unavailable(f"Table {name!r} is being written by others: it was not compacted. Try again.") from error
    return Compacted(merged, into, len(doomed), len(table.snapshots()), deleted + finish(table) + drop_metadata(table))


def compact_logs(tables: Tables, *, before: datetime, newest: int = NEWEST) -> dict[str, Compacted]:
    """Compact the log tables; by name. Versions that the training sets of any use case name stay.

    Shippers may go on meanwhile. Raises Unavailable when they came first ``_TRIES`` times.
    """
    keep, told = _trained_on(tables), {}
    for name in [name for kind in SCHEMAS if tables.exists(name := f"log.{kind}")]:
        for left in reversed(range(_TRIES)):
            with suppress(*([Unavailable] if left else [])):
                told[name] = compact(tables, name, before=before, keep=keep, newest=newest)
                break
    return told


def _trained_on(tables: Tables) -> frozenset[int]:
    """The versions of log tables that training sets were made of."""
    sets = [one for name in tables.names() if name.startswith("training.") for one in tables.snapshots(name)]
    records = [one["properties"].get(MADE_FROM, "{}") for one in sets]
    pins = [json.loads(record).get("snapshots", {}) for record in records]
    return frozenset(snapshot for pin in pins for name, snapshot in pin.items() if name.startswith("log."))


def _merge(table: Table) -> tuple[int, int]:
    small = [task for task in table.scan().plan_files() if task.file.file_size_in_bytes < _SMALL_BYTES]
    if len(small) < _FEW:
        return 0, 0
    written, transaction = list[str](), table.transaction()
    with transaction.update_snapshot(snapshot_properties={_MERGED: str(len(small))}).overwrite() as update:
        # The newest commit comes first in a plan: files keep the order in which their rows came.
        for group in _groups(small[::-1]):
            scan = table.scan()
            reader = ArrowScan(table.metadata, table.io, scan.projection(), scan.row_filter)
            for file in _dataframe_to_data_files(table.metadata, reader.to_table(group), table.io):
                update.append_data_file(file)
                written.append(file.file_path)
            for task in group:
                update.delete_data_file(task.file)
    reached("compact", "written")
    try:
        transaction.commit_transaction()
    except _CAME_FIRST:
        for path in written:
            table.io.delete(path)
        raise
    reached("compact", "merged")
    return len(small), len(written)


def _groups(tasks: list[FileScanTask]) -> Iterator[list[FileScanTask]]:
    """So many files at a time that their rows fit into memory."""
    group: list[FileScanTask] = []
    for task in tasks:
        if group and sum(one.file.file_size_in_bytes for one in group) + task.file.file_size_in_bytes > _GROUP_BYTES:
            yield group
            group = []
        group.append(task)
    yield group


def _doomed(table: Table, before: datetime, keep: frozenset[int], newest: int) -> list[Snapshot]:
    named = {ref.snapshot_id for ref in table.metadata.refs.values() if ref.snapshot_ref_type in SnapshotRefType}
    by_age = sorted(table.snapshots(), key=lambda one: one.timestamp_ms)
    old = by_age[: max(0, len(by_age) - newest)]
    return [s for s in old if s.timestamp_ms < before.timestamp() * 1000 and s.snapshot_id not in named | keep]


def _expire(tables: Tables, name: str, table: Table, doomed: list[Snapshot]) -> None:
    ids, url = {snapshot.snapshot_id for snapshot in doomed}, tables.storage.ledger_url or ""
    remember(url, name, [one for one in tables.snapshots(name) if one["snapshot_id"] in ids])
    reached("compact", "remembered")
    there = {snapshot.snapshot_id for snapshot in table.snapshots()} - ids
    gone = sum(one["snapshot_id"] not in there for one in recall(url, name))
    transaction = table.transaction()
    ExpireSnapshots(transaction).by_ids(sorted(ids)).commit()
    transaction.set_properties({EXPIRED: str(gone), **BOUNDED})
    intend(table, doomed)
    transaction.commit_transaction()
    reached("compact", "expired")
