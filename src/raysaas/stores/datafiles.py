"""The data files of a table version: where a table is too long for one process, each is read where it is needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.table import DataScan, FileScanTask

from raysaas.stores.tables import Tables, plain


@dataclass(frozen=True, slots=True)
class DataFiles:
    """Columns of some or all files of one version, in the order of its rows. Picklable; reads nothing until asked.

    ``names`` renames columns as they are read.
    """

    tables: Tables
    table: str
    snapshot: int | None
    columns: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    tasks: tuple[FileScanTask, ...] = ()

    @property
    def num_rows(self) -> int:
        """Number of rows, from metadata."""
        return sum(task.file.record_count for task in self.tasks)

    def parts(self) -> list["DataFiles"]:
        """One for each file."""
        return [replace(self, tasks=(task,)) for task in self.tasks]

    def read(self) -> pa.Table:
        """The rows, in the platform's types."""
        scan = _scan(self.tables, self.table, self.snapshot, self.columns)
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
) -> DataFiles:
    """The files of a version, the newest by default; raises NotFound when the table was never written."""
    tasks = tuple(_scan(tables, table, snapshot, columns).plan_files())
    return DataFiles(tables, table, snapshot, tuple(columns), dict(names or {}), tasks)


def _scan(tables: Tables, table: str, snapshot: int | None, columns: Sequence[str]) -> DataScan:
    return tables.table(table).scan(selected_fields=tuple(columns), snapshot_id=snapshot)
