"""One version of a table as a stream of rows, and how SQL names its columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from raysaas.stores.tables import Tables


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two versions."""

    tables: Tables
    table: str
    snapshot: int
    schema: pa.Schema
    num_rows: int

    def read(self, columns: Sequence[str]) -> pa.RecordBatchReader:
        """Stream some columns."""
        return self.tables.batches(self.table, snapshot=self.snapshot, columns=columns)


def quoted(name: str) -> str:
    """A column's name as SQL takes it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
