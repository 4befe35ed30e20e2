"""The data files of a table version: where a table is too long for one process, each is read or written where its rows
are."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import DataScan, FileScanTask

from raysaas.stores.tables import Tables, aligned, plain


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Columns of some or all files of one version, in the order of its rows. Picklable; reads nothing until asked.

    ``names`` renames columns as they are read; with ``where`` only some rows are, though ``num_rows`` counts all.
    """

    tables: Tables
    table: str
    snapshot: int | None
    columns: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[FileScanTask, ...] = ()
    where: BooleanExpression = field(default_factory=AlwaysTrue)

    @property
    def num_rows(self) -> int:
        """Number of rows, from metadata."""
        return sum(task.file.record_count for task in self.tasks)

    def parts(self) -> list["DataFiles"]:
        """One for each file."""
        return [replace(self, tasks=(task,)) for task in self.tasks]

    def schema(self) -> pa.Schema:
        """Of the whole table, in the platform's types."""
        return self.tables.schema(self.table, self.snapshot)

    def read(self) -> pa.Table:
        """The rows, in the platform's types."""
        scan = _scan(self.tables, self.table, self.snapshot, self.columns, self.where)
        reader = ArrowScan(scan.table_metadata, scan.io, scan.projection(), scan.row_filter, scan.case_sensitive)
        rows = plain(reader.to_table(self.tasks)).select(self.columns)
        return rows.rename_columns([self.names.get(name, name) for name in self.columns])


def data_files(
    tables: Tables,
    table: str,
    *,
    snapshot: int | None = None,
    columns: Sequence[str],
    names: Mapping[str, str] | None = None,
    where: BooleanExpression | None = None,
) -> DataFiles:
    """The files of a version, the newest by default; raises NotFound when the table was never written."""
    chosen = where or AlwaysTrue()
    tasks = tuple(_scan(tables, table, snapshot, columns, chosen).plan_files())
    return DataFiles(tables, table, snapshot, tuple(columns), dict(names or {}), tasks, chosen)


@dataclass(frozen=True, slots=True)
class NewFiles:
    """Where files for ``Tables.replace_files`` are written, from any process: a folder's URI and the table's schema."""

    folder: str
    schema: pa.Schema

    def write(self, rows: pa.Table) -> list[str]:
        """URI of a Parquet file of ``rows``; none where there are none."""
        if not rows.num_rows:
            return []
        fs, path = pafs.FileSystem.from_uri(self.folder)
        fs.create_dir(path, recursive=True)
        name = f"{uuid.uuid4().hex}.parquet"
        pq.write_table(aligned(plain(rows), self.schema), f"{path}/{name}", filesystem=fs, compression="zstd")
        return [f"{self.folder}/{name}"]


def new_files(tables: Tables, table: str, schema: pa.Schema) -> NewFiles:
    """For a table that is made, or widened to ``schema``, where needed."""
    made = tables.ensure(table, plain(schema.empty_table()).schema)
    return NewFiles(f"{made.location()}/data", tables.schema(table))


def _scan(
    tables: Tables, table: str, snapshot: int | None, columns: Sequence[str], where: BooleanExpression
) -> DataScan:
    return tables.table(table).scan(row_filter=where, selected_fields=tuple(columns), snapshot_id=snapshot)
