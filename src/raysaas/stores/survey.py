"""Which versions and data files of an Iceberg table hold rows that match."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.manifest import DataFile, ManifestEntryStatus, ManifestFile
from pyiceberg.table import FileScanTask, Table
from pyiceberg.table.snapshots import Snapshot

from raysaas.stores.tables import Tables

Paths = frozenset[str]


@dataclass(frozen=True, slots=True)
class Rows:
    """Which rows must go: ``match`` gives a boolean per row of ``columns``, as far as a table has them; ``prune`` may
    leave out files that have none. ``clean`` takes their values out of a text."""

    columns: tuple[str, ...]
    match: Callable[[pa.Table], pa.Array]
    prune: BooleanExpression = field(default_factory=AlwaysTrue)
    clean: Callable[[str], str] = str

    def count(self, table: pa.Table) -> int:
        """How many rows of ``table`` match."""
        return int(pc.sum(pc.fill_null(self.match(table), False)).as_py() or 0)

    def without(self, table: pa.Table) -> pa.Table:
        """The rows that stay."""
        return table.filter(pc.invert(pc.fill_null(self.match(table), False)))


@dataclass(frozen=True, slots=True)
class Found:
    """What a table holds: matching rows by data file (None: the file is gone), and the files each version mentions.

    ``live`` are the files that a version consists of.
    """

    rows: Mapping[str, int | None]
    mentions: Mapping[int, Paths]
    live: Mapping[int, Paths]
    stained: frozenset[int]
    files: Mapping[str, DataFile]

    def held(self, snapshot: int) -> int:
        """Matching rows of a version."""
        return sum(self.rows.get(path) or 0 for path in self.live.get(snapshot, ()))

    def bad(self) -> set[str]:
        """Data files that hold matching rows, or are gone, so that nobody can say."""
        return {path for path, rows in self.rows.items() if rows is None or rows}

    def dirty(self) -> list[int]:
        """Versions that hold or mention matching rows, oldest first."""
        bad = self.bad()
        return [snapshot for snapshot, paths in self.mentions.items() if paths & bad or snapshot in self.stained]


def survey(tables: Tables, name: str, rows: Rows) -> Found:
    """Look through every version of a table, each data file once. Nothing is found in a table that does not exist."""
    return Survey(tables.table(name), rows).look() if tables.exists(name) else Found({}, {}, {}, frozenset(), {})


@dataclass(slots=True)
class Survey:
    """Looks through a table; again after it changed, without reading again what never changes."""

    table: Table
    rows: Rows
    counts: dict[str, int | None] = field(default_factory=dict)
    manifests: dict[str, tuple[Paths, Paths]] = field(default_factory=dict)
    files: dict[str, DataFile] = field(default_factory=dict)

    def look(self) -> Found:
        """What the table holds now."""
        mentions: dict[int, Paths] = {}
        live: dict[int, Paths] = {}
        for snapshot in self.table.snapshots():
            pairs = [self._entries(manifest) for manifest in snapshot.manifests(self.table.io)]
            mentions[snapshot.snapshot_id] = Paths().union(*(pair[0] for pair in pairs))
            live[snapshot.snapshot_id] = Paths().union(*(pair[1] for pair in pairs))
        for path in Paths().union(*mentions.values()) - self.counts.keys():
            self.counts[path] = self._count(self.files[path])
        rows = self.rows
        stained = {s.snapshot_id for s in self.table.snapshots() if properties(s, rows) != properties(s)}
        return Found(self.counts, mentions, live, frozenset(stained), self.files)

    def _entries(self, manifest: ManifestFile) -> tuple[Paths, Paths]:
        path = manifest.manifest_path
        if path not in self.manifests:
            entries = manifest.fetch_manifest_entry(self.table.io, discard_deleted=False)
            self.files |= {entry.data_file.file_path: entry.data_file for entry in entries}
            alive = (e.data_file.file_path for e in entries if e.status != ManifestEntryStatus.DELETED)
            self.manifests[path] = Paths(e.data_file.file_path for e in entries), Paths(alive)
        return self.manifests[path]

    def _count(self, file: DataFile) -> int | None:
        try:
            return self.rows.count(scan(self.table, file, self.rows.columns, self.rows.prune))
        except FileNotFoundError:
            return None


def scan(
    table: Table, file: DataFile, columns: tuple[str, ...] = (), where: BooleanExpression | None = None
) -> pa.Table:
    """The rows of one data file, in the table's present schema."""
    known = set(table.schema().column_names)
    schema = table.schema().select(*(name for name in columns if name in known)) if columns else table.schema()
    return ArrowScan(table.metadata, table.io, schema, where or AlwaysTrue()).to_table([FileScanTask(file)])


def properties(snapshot: Snapshot, rows: Rows | None = None) -> dict[str, str]:
    """The platform's own properties of a version, cleaned if ``rows`` are given."""
    found = snapshot.summary.additional_properties if snapshot.summary else {}
    own = {key: value for key, value in found.items() if key.startswith("raysaas.")}
    return {key: rows.clean(value) for key, value in own.items()} if rows else own
