"""Datasets as Iceberg tables: a version is a snapshot id, a commit is atomic, a tag keeps a version alive.

Names are ``namespace.table``. The catalog is SQL (SQLite by default, PostgreSQL by URL) and the files lie under
``storage.warehouse``. Ray Data writes to the same tables with ``catalog_kwargs()``. Library: pyiceberg.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    ValidationException,
)
from pyiceberg.expressions import AlwaysTrue, BooleanExpression
from pyiceberg.table import Table

from raysaas.errors import NotFound, Unavailable
from raysaas.settings import Storage
from raysaas.stores.expired import recalled

_COMMIT_TRIES = 5
# Arrow bytes of one data file: a task that reads a file should not need more memory than a task that joins a partition.
# Of the metadata files that every commit writes, as many stay.
BOUNDED = {"write.metadata.delete-after-commit.enabled": "true", "write.metadata.previous-versions-max": "20"}
_PROPERTIES = {"write.target-file-size-bytes": str(128 << 20), **BOUNDED}
EXPIRED = "raysaas.expired"  # table property: how many of its versions expired
FILES = "raysaas.files"  # snapshot property: the digests of the files that the commit took
MADE_FROM = "raysaas.training"  # snapshot property: the record of the training set that the snapshot holds


def commit_order(snapshots: Iterable[Mapping[str, Any]]) -> list[str]:
    """First parts of row ids, one per file, in the order in which a table's ``snapshots`` took the files."""
    return [digest[:16] for s in snapshots for digest in json.loads(s["properties"].get(FILES, "[]"))]


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
        return {"name": "raysaas", "type": kind, "uri": url, "warehouse": warehouse, **_sdk_options(warehouse)}

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
        try:
            table = self.catalog.load_table(name)
        except NoSuchTableError:
            with contextlib.suppress(NamespaceAlreadyExistsError):
                self.catalog.create_namespace(name.split(".")[0])
            # It writes a metadata file even where the table exists, so it is not asked each time.
            table = self.catalog.create_table_if_not_exists(name, schema, properties=_PROPERTIES)
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
        paths = list(files)

        def adopt() -> Table:
            table = self.ensure(name, schema)
            table.add_files(paths, snapshot_properties=dict(properties))
            return table

        return _committed(name, adopt)

    def replace_files(self, name: str, files: Iterable[str]) -> int:
        """Replace all rows by those of Parquet ``files`` in one atomic commit and return the new snapshot id; as
        :meth:`overwrite`, for rows that lie in files already."""
        paths = list(files)

        def adopt() -> Table:
            table = self.table(name)
            with table.transaction() as change:
                if table.current_snapshot():
                    change.delete(AlwaysTrue())
                change.add_files(paths, check_duplicate_files=False)
            return table

        return _committed(name, adopt)

    def _commit(self, name: str, rows: pa.Table, properties: dict[str, str], verb: str) -> int:
        rows = plain(rows)

        def write() -> Table:
            table = self.ensure(name, rows.schema)
            # An empty table has nothing to overwrite, and pyiceberg would warn of that.
            put = table.overwrite if verb == "overwrite" and table.current_snapshot() else table.append
            put(aligned(rows, table.schema().as_arrow()), snapshot_properties=properties)
            return table

        return _committed(name, write)

    def read(
        self,
        name: str,
        *,
        snapshot: int | None = None,
        columns: Iterable[str] | None = None,
        where: str | BooleanExpression | None = None,
    ) -> pa.Table:
        """Read a version (the newest by default); ``where`` is a pyiceberg row filter. Row order is not promised."""
        scan = self.table(name).scan(
            row_filter=where or AlwaysTrue(),
            selected_fields=tuple(columns) if columns else ("*",),
            snapshot_id=snapshot,
        )
        return plain(scan.to_arrow())

    def batches(self, name: str, *, snapshot: int, columns: Iterable[str]) -> pa.RecordBatchReader:
        """Read columns of a version as a stream, so that memory does not grow with the rows."""
        scan = self.table(name).scan(selected_fields=tuple(columns), snapshot_id=snapshot)
        return scan.to_arrow_batch_reader()

    def added(self, name: str, snapshot: int, columns: Iterable[str]) -> pa.Table:
        """Columns of the rows that one commit added."""
        table = self.table(name)
        made = table.snapshot_by_id(snapshot)
        manifests = [m for m in made.manifests(table.io) if m.added_snapshot_id == snapshot] if made else []
        entries = [e for m in manifests for e in m.fetch_manifest_entry(table.io) if e.snapshot_id == snapshot]
        files = [pafs.FileSystem.from_uri(e.data_file.file_path) for e in entries]
        parts = [pq.read_table(path, columns=list(columns), filesystem=fs) for fs, path in files]
        return plain(pa.concat_tables(parts)) if parts else self.schema(name).empty_table().select(list(columns))

    def count(self, name: str, snapshot: int | None = None, where: str | None = None) -> int:
        """Number of rows in a version, from metadata where possible; ``where`` as in :meth:`read`."""
        return int(self.table(name).scan(row_filter=where or AlwaysTrue(), snapshot_id=snapshot).count())

    def schema(self, name: str, snapshot: int | None = None) -> pa.Schema:
        """Arrow schema of a version (the newest by default), in the platform's types."""
        table = self.table(name)
        found = table.snapshot_by_id(snapshot) if snapshot is not None else None
        kept = table.schemas().get(found.schema_id) if found and found.schema_id is not None else None
        return plain((kept or table.schema()).as_arrow().empty_table()).schema

    def location(self, name: str) -> str:
        """URI of the folder that holds a table's files."""
        return str(self.table(name).location())

    def names(self) -> list[str]:
        """Every table, as ``namespace.table``."""
        return sorted(
            ".".join(found) for space in self.catalog.list_namespaces() for found in self.catalog.list_tables(space)
        )

    def current(self, name: str) -> int | None:
        """Newest snapshot id, or None when the table does not exist or is empty."""
        if not self.exists(name):
            return None
        snapshot = self.table(name).current_snapshot()
        return snapshot.snapshot_id if snapshot else None

    def snapshots(self, name: str) -> list[dict[str, Any]]:
        """Every version, oldest first: ``snapshot_id``, ``committed_at`` (UTC), ``operation``, ``parent`` (id of the
        version it was committed on, or None) and ``properties``.
        """
        return _commits(self.table(name)) if self.exists(name) else []

    def history(self, name: str) -> list[dict[str, Any]]:
        """Every commit as :meth:`snapshots` tells it, oldest first, those of versions that expired included.

        Raises NotFound when the ledger does not know them: what was taken before would be taken again.
        """
        if not self.exists(name):
            return []
        table = self.table(name)  # once: versions may expire meanwhile
        present, expired = _commits(table), int(table.properties.get(EXPIRED, "0"))
        if not expired:
            return present
        there = {one["snapshot_id"] for one in present}
        gone = [
            one for one in recalled(self.storage.ledger_url or "", name, expired) if one["snapshot_id"] not in there
        ]
        if len(gone) < expired:
            raise NotFound(
                f"{expired} versions of table {name} expired, and the ledger knows {len(gone)} of their commits: point "
                "storage.ledger_url at the ledger that was in use then."
            )
        return sorted([*gone, *present], key=lambda one: one["committed_at"])

    def tags(self, name: str) -> dict[str, int]:
        """The named versions: snapshot id by tag."""
        refs = self.table(name).metadata.refs if self.exists(name) else {}
        return {tag: ref.snapshot_id for tag, ref in refs.items() if ref.snapshot_ref_type.value == "tag"}

    def tag(self, name: str, snapshot_id: int, tag: str) -> None:
        """Give a version a name, which also keeps it when old snapshots are expired."""
        table = self.table(name)
        if tag not in table.metadata.refs:
            table.manage_snapshots().create_tag(snapshot_id, tag).commit()


def _commits(table: Table) -> list[dict[str, Any]]:
    return [
        {
            "snapshot_id": s.snapshot_id,
            "committed_at": datetime.fromtimestamp(s.timestamp_ms / 1000, UTC),
            "operation": s.summary.operation.value if s.summary else "",
            "parent": s.parent_snapshot_id,
            "properties": dict(s.summary.additional_properties) if s.summary else {},
        }
        for s in table.snapshots()
    ]


def _sdk_options(warehouse: str) -> dict[str, str]:
    """What the AWS SDK's own variables say: Arrow reads them where it opens a URI, pyiceberg does not."""
    if not warehouse.startswith("s3"):
        return {}
    variables = {"s3.endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
                 "s3.region": ("AWS_REGION", "AWS_DEFAULT_REGION")}  # fmt: skip
    found = {key: [os.environ[name] for name in names if name in os.environ] for key, names in variables.items()}
    return {key: values[0] for key, values in found.items() if values}


def _committed(name: str, commit: Callable[[], Table]) -> int:
    """Commit anew while others come first, or drop the version that the commit began from; the new snapshot id."""
    for _ in range(_COMMIT_TRIES):
        with contextlib.suppress(CommitFailedException, ValidationException):
            return _current(commit())
    raise Unavailable(f"Table {name!r} is being written by others: {_COMMIT_TRIES} commits were refused. Try again.")


def _current(table: Table) -> int:
    snapshot = table.refresh().current_snapshot()
    return snapshot.snapshot_id if snapshot else 0


def aligned(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Order, cast and complete ``rows`` to the table's columns; columns that are absent become null."""
    target = pa.schema([pa.field(f.name, _plain_type(f.type)) for f in schema])
    columns = [
        rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in target
    ]
    return pa.table(columns, schema=target)
