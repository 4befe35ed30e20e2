"""Datasets as Iceberg tables: a version is a snapshot id, a commit is atomic, a tag keeps a version alive.

Names are ``namespace.table``. The catalog is SQL (SQLite by default, PostgreSQL by URL) and the files lie under
``storage.warehouse``. Ray Data writes to the same tables with ``catalog_kwargs()``. Library: pyiceberg.
"""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException, NamespaceAlreadyExistsError, NoSuchTableError
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table

from raysaas.errors import NotFound, Unavailable
from raysaas.settings import Storage

_COMMIT_TRIES = 5


def plain(table: pa.Table) -> pa.Table:
    """Return ``table`` in the platform's Arrow types: ``string`` for text and microsecond UTC timestamps."""
    return table.cast(pa.schema([pa.field(f.name, _plain_type(f.type), f.nullable) for f in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return pa.string()
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC")
    return kind


class Tables:
    """All Iceberg tables of one installation. Picklable: the catalog connection is opened where it is used."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def __getstate__(self) -> dict[str, Any]:
        return {"storage": self.storage}

    def catalog_kwargs(self) -> dict[str, str]:
        """Arguments for ``pyiceberg.catalog.load_catalog`` and for Ray Data's Iceberg reader and writer."""
        url, warehouse = self.storage.catalog_url or "", self.storage.warehouse or ""
        kind = "rest" if url.startswith("http") else "sql"
        return {"name": "raysaas", "type": kind, "uri": url, "warehouse": warehouse}

    @cached_property
    def catalog(self) -> Catalog:
        """The open pyiceberg catalog."""
        Path(self.storage.home).mkdir(parents=True, exist_ok=True)
        return load_catalog(**self.catalog_kwargs())

    def table(self, name: str) -> Table:
        """Return the table, or raise NotFound."""
        try:
            return self.catalog.load_table(name)
        except NoSuchTableError as error:
            raise NotFound(f"There is no table {name!r} yet; run the job that writes it first.") from error

    def exists(self, name: str) -> bool:
        """Whether the table was ever written."""
        return bool(self.catalog.table_exists(name))

    def ensure(self, name: str, schema: pa.Schema) -> Table:
        """Return the table, made or widened so that it has every column of ``schema``."""
        with contextlib.suppress(NamespaceAlreadyExistsError):
            self.catalog.create_namespace(name.split(".")[0])
        table = self.catalog.create_table_if_not_exists(name, schema)
        if set(schema.names) - set(table.schema().as_arrow().names):
            with table.update_schema() as update:
                update.union_by_name(schema)
            table = self.table(name)
        return table

    def append(self, name: str, rows: pa.Table, properties: Mapping[str, str] | None = None) -> int:
        """Add ``rows`` in one atomic commit and return the new snapshot id."""
        return self._commit(name, rows, dict(properties or {}), "append")

    def overwrite(self, name: str, rows: pa.Table, properties: Mapping[str, str] | None = None) -> int:
        """Replace all rows in one atomic commit and return the new snapshot id; older snapshots stay readable."""
        return self._commit(name, rows, dict(properties or {}), "overwrite")

    def add_files(self, name: str, schema: pa.Schema, files: Iterable[str], properties: Mapping[str, str]) -> int:
        """Adopt Parquet ``files`` (paths below the warehouse) in one atomic commit and return the snapshot id."""
        table = self.ensure(name, schema)
        table.add_files(list(files), snapshot_properties=dict(properties))
        return _current(table)

    def _commit(self, name: str, rows: pa.Table, properties: dict[str, str], verb: str) -> int:
        rows = plain(rows)
        for _ in range(_COMMIT_TRIES):
            table = self.ensure(name, rows.schema)
            try:
                # An empty table has nothing to overwrite, and pyiceberg would warn of that.
                write = table.overwrite if verb == "overwrite" and table.current_snapshot() else table.append
                write(_aligned(rows, table.schema().as_arrow()), snapshot_properties=properties)
                return _current(table)
            except CommitFailedException:
                continue
        raise Unavailable(
            f"Table {name!r} is being written by others: {_COMMIT_TRIES} commits were refused. Try again."
        )

    def read(
        self, name: str, *, snapshot: int | None = None, columns: Iterable[str] | None = None, where: str | None = None
    ) -> pa.Table:
        """Read a version (the newest by default); ``where`` is a pyiceberg row filter. Row order is not promised."""
        scan = self.table(name).scan(
            row_filter=where or AlwaysTrue(),
            selected_fields=tuple(columns) if columns else ("*",),
            snapshot_id=snapshot,
        )
        return plain(scan.to_arrow())

    def count(self, name: str, snapshot: int | None = None) -> int:
        """Number of rows in a version, from metadata where possible."""
        return int(self.table(name).scan(snapshot_id=snapshot).count())

    def schema(self, name: str) -> pa.Schema:
        """Arrow schema of the newest version, in the platform's types."""
        return plain(self.table(name).schema().as_arrow().empty_table()).schema

    def current(self, name: str) -> int | None:
        """Newest snapshot id, or None when the table does not exist or is empty."""
        if not self.exists(name):
            return None
        snapshot = self.table(name).current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    def snapshots(self, name: str) -> list[dict[str, Any]]:
        """Every version, oldest first: ``snapshot_id``, ``committed_at`` (UTC) and ``properties``."""
        if not self.exists(name):
            return []
        return [
            {
                "snapshot_id": s.snapshot_id,
                "committed_at": datetime.fromtimestamp(s.timestamp_ms / 1000, UTC),
                "properties": dict(s.summary.additional_properties) if s.summary else {},
            }
            for s in self.table(name).snapshots()
        ]

    def tag(self, name: str, snapshot_id: int, tag: str) -> None:
        """Give a version a name, which also keeps it when old snapshots are expired."""
        table = self.table(name)
        if tag not in table.metadata.refs:
            table.manage_snapshots().create_tag(snapshot_id, tag).commit()


def _current(table: Table) -> int:
    snapshot = table.refresh().current_snapshot()
    return snapshot.snapshot_id if snapshot else 0


def _aligned(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Order and complete ``rows`` to the table's columns; columns that are absent become null."""
    target = pa.schema([pa.field(f.name, _plain_type(f.type)) for f in schema])
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in target
    ]
    return pa.table(columns, schema=target)
