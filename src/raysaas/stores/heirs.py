"""The versions of an Iceberg table that take the place of those that held rows which must go."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pyiceberg.avro.codecs import AvroCompressionCodec
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.manifest import (
    DataFile,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    write_manifest,
    write_manifest_list,
)
from pyiceberg.table import Transaction
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Operation, Snapshot, Summary
from pyiceberg.table.update import (
    AddSnapshotUpdate,
    AssertRefSnapshotId,
    RemoveSnapshotsUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
    UpdatesAndRequirements,
    UpdateTableMetadata,
)
from pyiceberg.typedef import TableVersion
from pyiceberg.utils.datetime import datetime_to_millis

from raysaas.stores.survey import Found, Survey, properties, scan

REPLACES, ERASED = "raysaas.replaces", "raysaas.erased"
_CODEC: AvroCompressionCodec = "deflate"
_FORMAT: TableVersion = 2


@dataclass(slots=True)
class Rewritten:
    """Data files without the rows, each written once however many versions share it."""

    survey: Survey
    made: dict[str, list[DataFile]] = field(default_factory=dict)

    def files(self, file: DataFile) -> list[DataFile]:
        """What stands for ``file``: itself, a new one, or nothing where no row is left."""
        path, table = file.file_path, self.survey.table
        if not self.survey.counts.get(path):
            return [file]
        if path not in self.made:
            rest = self.survey.rows.without(scan(table, file))
            self.made[path] = list(_dataframe_to_data_files(table.metadata, rest, table.io)) if rest.num_rows else []
        return self.made[path]


@dataclass(slots=True)
class Succession:
    """The plan of one commit: who goes, and who comes instead. ``moved`` are the tags that go along, once staged."""

    survey: Survey
    found: Found
    keep: frozenset[int]
    mark: str
    rewritten: Rewritten
    moved: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def doomed(self) -> list[Snapshot]:
        """The versions that the commit drops, oldest first."""
        dirty = set(self.found.dirty())
        return [snapshot for snapshot in self.survey.table.snapshots() if snapshot.snapshot_id in dirty]

    def stage(self, transaction: Transaction) -> None:
        """Write manifests and put the whole change into ``transaction``."""
        metadata = self.survey.table.metadata
        head = metadata.snapshot_by_name(MAIN_BRANCH) or metadata.snapshots[-1]
        pinned = {ref.snapshot_id for name, ref in metadata.refs.items() if name != MAIN_BRANCH} | self.keep
        base, heirs = self._without(head), dict[int, Snapshot]()
        for old in self.doomed:
            made = self._without(old) if old.snapshot_id in pinned and old is not head else base
            heirs[old.snapshot_id] = self._heir(made, old, heirs)
        newest = self._heir(base, head, heirs).model_copy(update={
            "parent_snapshot_id": heirs.get(head.snapshot_id, head).snapshot_id,
            "timestamp_ms": datetime_to_millis(datetime.now(UTC)),
            "summary": Summary(Operation.DELETE, **_totals(base), **{ERASED: self.mark}),
        })  # fmt: skip
        # The newest comes last: who takes the last version that was committed must get it.
        made = [*heirs.values(), newest]
        first = metadata.last_sequence_number + 1
        numbered = [s.model_copy(update={"sequence_number": number}) for number, s in enumerate(made, first)]
        _Change(transaction, self._updates(numbered, heirs), head.snapshot_id).commit()

    def discard(self) -> None:
        """Delete what was written for a commit that was refused."""
        for path in self.paths:
            self.survey.table.io.delete(path)

    def _updates(self, made: list[Snapshot], heirs: Mapping[int, Snapshot]) -> list[TableUpdate]:
        refs = self.survey.table.metadata.refs.items()
        tags = {name: heirs[ref.snapshot_id] for name, ref in refs if name != MAIN_BRANCH and ref.snapshot_id in heirs}
        self.moved = sorted(tags)
        return [
            *(AddSnapshotUpdate(snapshot=snapshot) for snapshot in made),
            *(_set(name, SnapshotRefType.TAG, heir) for name, heir in tags.items()),
            _set(MAIN_BRANCH, SnapshotRefType.BRANCH, made[-1]),
            RemoveSnapshotsUpdate(snapshot_ids=sorted(heirs)),
        ]

    def _heir(self, made: Snapshot, old: Snapshot, heirs: Mapping[int, Snapshot]) -> Snapshot:
        """A version of its own with the files of ``made``, and the time, parent and properties of ``old``."""
        own, parent = properties(old, self.survey.rows), heirs.get(old.parent_snapshot_id or 0)
        replaced = json.dumps(sorted({*json.loads(own.get(REPLACES, "[]")), old.snapshot_id}))
        kind = old.summary.operation if old.summary else Operation.APPEND
        return made.model_copy(update={
            "snapshot_id": self.survey.table.metadata.new_snapshot_id(), "timestamp_ms": old.timestamp_ms,
            "parent_snapshot_id": parent.snapshot_id if parent else old.parent_snapshot_id,
            "summary": Summary(kind, **_totals(made), **own | {REPLACES: replaced, ERASED: self.mark}),
        })  # fmt: skip

    def _without(self, old: Snapshot) -> Snapshot:
        """``old`` with a manifest list in which no row that must go is held or mentioned."""
        table, key = self.survey.table, uuid.uuid4()
        number, bad = table.metadata.new_snapshot_id(), self.found.bad()
        manifests: list[ManifestFile] = []
        files: list[DataFile] = []
        for manifest in old.manifests(table.io):
            mentioned, live = self.survey.manifests[manifest.manifest_path]
            kept = [self.survey.files[path] for path in live]
            if mentioned & bad:
                entries = manifest.fetch_manifest_entry(table.io)
                kept = [file for entry in entries for file in self.rewritten.files(entry.data_file)]
                manifests += self._manifest(f"{key}-m{len(manifests)}.avro", number, entries) if kept else []
            elif live:
                manifests.append(manifest)
            files += kept
        path = self._place(f"snap-{number}-0-{key}.avro")
        sequence = table.metadata.last_sequence_number + 1
        with write_manifest_list(_FORMAT, table.io.new_output(path), number, None, sequence, _CODEC) as out:
            out.add_manifests(manifests)
        return old.model_copy(update={"manifest_list": path, "summary": Summary(Operation.APPEND, **_counted(files))})

    def _manifest(self, name: str, number: int, entries: list[ManifestEntry]) -> list[ManifestFile]:
        table = self.survey.table
        output = table.io.new_output(self._place(name))
        with write_manifest(_FORMAT, table.spec(), table.schema(), output, number, _CODEC) as out:
            for entry in entries:
                for file in self.rewritten.files(entry.data_file):
                    # As a compaction does: other bytes, the same place in the table's history.
                    out.existing(ManifestEntry.from_args(
                        status=ManifestEntryStatus.EXISTING, snapshot_id=entry.snapshot_id, data_file=file,
                        sequence_number=entry.sequence_number, file_sequence_number=entry.file_sequence_number,
                    ))  # fmt: skip
        return [out.to_manifest_file()]

    def _place(self, name: str) -> str:
        self.paths.append(self.survey.table.location_provider().new_metadata_location(name))
        return self.paths[-1]


class _Change(UpdateTableMetadata["_Change"]):
    """Stages updates that hold only if the newest version is still ``head``."""

    def __init__(self, transaction: Transaction, updates: list[TableUpdate], head: int) -> None:
        super().__init__(transaction)
        self._updates, self._head = updates, head

    def _commit(self) -> UpdatesAndRequirements:
        return tuple(self._updates), (AssertRefSnapshotId(ref=MAIN_BRANCH, snapshot_id=self._head),)


def _set(name: str, kind: str, snapshot: Snapshot) -> SetSnapshotRefUpdate:
    return SetSnapshotRefUpdate(ref_name=name, type=kind, snapshot_id=snapshot.snapshot_id)


def _counted(files: list[DataFile]) -> dict[str, str]:
    """The totals that a version's summary tells, and the next version's is reckoned from."""
    sums = {"data-files": len(files), "records": sum(file.record_count for file in files),
            "files-size": sum(file.file_size_in_bytes for file in files),
            "delete-files": 0, "position-deletes": 0, "equality-deletes": 0}  # fmt: skip
    return {f"total-{key}": str(value) for key, value in sums.items()}


def _totals(snapshot: Snapshot) -> dict[str, str]:
    return dict(snapshot.summary.additional_properties) if snapshot.summary else {}
