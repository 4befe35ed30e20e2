"""From files to a batch: parts cut, types settled, the schema of the result known before a task starts."""

import hashlib
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysaas.errors import ConfigError, InputError
from raysaas.ingest.binding import bind, date_orders, infer, validate
from raysaas.ingest.contract import check_rows
from raysaas.ingest.formats import Part, SourceFile, blocks, filesystem, flattened, split
from raysaas.ingest.staging import Batch
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables
from raysaas.stores.tombstones import tombstones
from raysaas.use_case import Column, ColumnType, Format, Source

_LOG = logging.getLogger(__name__)
_PART_BYTES = (4 << 20, 32 << 20)
STORED = {"double": ColumnType.number, "int64": ColumnType.integer, "bool": ColumnType.boolean}

TypesOf = Callable[[tuple[Part, ...]], Mapping[str, set[ColumnType]]]


@dataclass(frozen=True, slots=True)
class Target:
    """The two tables that a source is written to."""

    use_case: str
    source: str

    @property
    def raw(self) -> str:
        """Table of accepted rows."""
        return f"raw.{self.use_case}__{self.source}"

    @property
    def quarantine(self) -> str:
        """Table of refused rows."""
        return f"quarantine.{self.use_case}__{self.source}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A batch ready to run. ``key`` is equal for equal files under an equal contract."""

    key: str
    files: tuple[SourceFile, ...]
    batch: Batch
    warnings: tuple[str, ...]


def plan(
    files: list[SourceFile], settings: Settings, target: Target, tables: Tables, now: datetime, types_of: TypesOf
) -> Plan:
    """Prepare ``files`` for one run. Raises InputError and ConfigError before anything is read in full.

    ``types_of`` finds the types that all rows fit; it is asked only when the contract declares no columns.
    """
    source = settings.use_case.sources[target.source]
    parts = tuple(cut(files, settings.ingest.num_blocks))
    if not source.columns:
        source = _inferred(source, files, parts, target, tables, types_of)
    validate(source, target.source)
    warnings = _bind_all(source, files)
    schema = _schema(source, files[0], now)
    _same_types(schema, target, tables)
    key = hashlib.sha256(repr((sorted(f.digest for f in files), source)).encode()).hexdigest()[:16]
    attempt = f"{key}-{uuid.uuid4().hex[:8]}"
    batch = Batch(
        parts, source, schema, _date_orders(source, parts), now, settings.ingest.future_tolerance_s,
        f"{data_dir(tables, target.raw)}/{attempt}", f"{data_dir(tables, target.quarantine)}/{attempt}", attempt,
        tombstones(Ledger(settings.storage.ledger_url or ""), target.use_case, target.source),
    )  # fmt: skip
    return Plan(key, tuple(files), batch, tuple(warnings))


def data_dir(tables: Tables, name: str) -> str:
    """URI of the folder under the warehouse where the files of a table are staged."""
    return f"{tables.storage.warehouse}/{name.replace('.', '/')}/staged"


def cut(files: list[SourceFile], num_blocks: int) -> list[Part]:
    """Cut files into parts: about ``num_blocks`` of them, but none so small that a task is not worth it, nor so large
    that it needs much memory."""
    low, high = _PART_BYTES
    size = min(high, max(low, sum(file.num_bytes for file in files) // num_blocks + 1))
    return [part for file in files for part in split(file, size)]


def _inferred(
    source: Source, files: list[SourceFile], parts: tuple[Part, ...], target: Target, tables: Tables, types_of: TypesOf
) -> Source:
    """Declare every column of the files: as the table already has it, else by the values."""
    declared = infer(source, types_of(parts))
    if not tables.exists(target.raw):
        return declared
    stored = {f.name: STORED.get(str(f.type)) for f in tables.schema(target.raw)}
    columns = {key: replace(spec, type=stored.get(key) or spec.type) for key, spec in declared.columns.items()}
    for f in tables.schema(target.raw):
        if f.name in columns and pa.types.is_string(f.type):
            columns[f.name] = Column(type=ColumnType.category, column=columns[f.name].column)
    return replace(declared, columns=columns)


def _bind_all(source: Source, files: list[SourceFile]) -> list[str]:
    warnings: dict[str, None] = {}
    for file in files:
        try:
            binding = bind(source, file.header)
        except InputError as error:
            raise InputError(f"{file.uri}: {error}") from error
        used = {i for i in binding.ignored if any(i in expression for expression in source.derive.values())}
        ignored = [name for i, name in binding.ignored.items() if i not in used]
        if ignored:
            warnings[f"Columns that the contract does not name were ignored: {', '.join(ignored)}."] = None
        if binding.missing:
            warnings[f"Columns missing from {file.uri} were filled with nulls: {', '.join(binding.missing)}."] = None
        if file.encoding != "utf8":
            warnings[f"{file.uri} is not UTF-8: it was read as Latin-1."] = None
    return list(warnings)


def _schema(source: Source, file: SourceFile, now: datetime) -> pa.Schema:
    """Schema of accepted rows: what the checks make of no rows at all."""
    empty = pa.schema([(name, pa.string()) for name in file.header]).empty_table()
    if file.format is Format.parquet:
        fs, path = filesystem(file.location)
        empty = flattened(pq.read_schema(path, filesystem=fs).remove_metadata().empty_table())
    none = np.empty(0, np.int64)
    return check_rows(empty, source, now=now, numbers=none, file="", digest="").accepted.schema


def _same_types(schema: pa.Schema, target: Target, tables: Tables) -> None:
    if not tables.exists(target.raw):
        return
    stored = tables.schema(target.raw)
    for column in schema:
        if column.name in stored.names and not stored.field(column.name).type.equals(column.type):
            raise ConfigError(
                f"use_case.sources.{target.source}: column {column.name!r} is {column.type} now and "
                f"{stored.field(column.name).type} in table {target.raw}: give it the old type, or a new name."
            )


def _date_orders(source: Source, parts: tuple[Part, ...]) -> dict[str, bool]:
    """How slashed dates are read, by the first block of the first and of the last part."""
    if not any(spec.type is ColumnType.time for spec in source.columns.values()):
        return {}
    first, last = (date_orders(source, next(blocks(part)).table) for part in (parts[0], parts[-1]))
    return {key: order for key, order in (first | last).items() if first.get(key, order) is last.get(key, order)}


def remove_leftovers(tables: Tables, name: str, key: str) -> None:
    """Delete what earlier runs of the same batch staged for table ``name`` and never committed."""
    fs, path = pafs.FileSystem.from_uri(data_dir(tables, name))
    infos = fs.get_file_info(pafs.FileSelector(path, recursive=True, allow_not_found=True))
    stale = [i.path for i in infos if i.type == pafs.FileType.File and f"/{key}-" in i.path]
    if not stale:
        return
    used = tables.table(name).inspect.all_data_files()["file_path"].to_pylist() if tables.exists(name) else []
    known = {pafs.FileSystem.from_uri(uri)[1] for uri in used}
    for orphan in set(stale) - known:
        _LOG.info("Removed %s: an earlier run staged it and did not finish.", orphan)
        fs.delete_file(orphan)
