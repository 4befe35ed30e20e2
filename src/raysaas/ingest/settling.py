"""Rules across rows, settled over all checked parts: the driver reads their keys and times, then each part is staged.

Checked rows wait as Arrow files beside their place in the table, which are mapped, not copied; Ray tasks write them as
Parquet without the rows that broke a rule, and those into quarantine. So the source is read once, and keys are looked
at once more. The result does not depend on how the files were cut into parts. DuckDB spills what does not fit.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from raysaas.errors import InputError
from raysaas.ingest.across import BEHIND, COPIES, FOUND, POS, behind, broken, keys_of, keys_sql, same
from raysaas.ingest.actions import drops_copies, refuses_keys
from raysaas.ingest.ordering import referred
from raysaas.ingest.refused_rows import take_out, tried
from raysaas.ingest.sinks import Sink
from raysaas.ingest.staging import Batch, Staged, latest, merged, own_columns, tally, trace
from raysaas.stores.tables import Tables
from raysaas.use_case import Source, UseCase

_PART_BITS = 40
_MEMORY = "512MB"
_INLINE_ROWS = 200_000
_SQL_TYPES = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "bool": "BOOLEAN"}

FanOut = Callable[[Callable[[int], Staged], Sequence[int]], list[Staged]]


@dataclass(frozen=True, slots=True)
class Referenced:
    """Where the values lie that a column of ``references`` may name, and whether only those of the same tenant."""

    table: str
    column: str
    same_tenant: bool


def settle(
    batch: Batch, staged: list[Staged], tables: Tables, raw: str, referenced: Mapping[str, Referenced], fan_out: FanOut
) -> list[Staged]:
    """Apply the rules across rows to checked ones, ``unique`` also against what table ``raw`` holds, and stage them.

    ``fan_out`` runs a function over numbers of parts.
    """
    before = {s.part: s for s in staged if s.num_accepted}
    if not batch.unsettled or not before:
        return staged
    found = find(_keys(batch, list(before)), batch.source, tables, raw, referenced)
    parts = pc.shift_right(found["pos"], _PART_BITS).to_numpy()
    split = {part: _within(found, parts == part) for part in before}

    def finished(part: int) -> Staged:
        return finish(batch, before[part], split[part])

    small = sum(s.num_accepted for s in before.values()) <= _INLINE_ROWS
    done = map(finished, before) if small else fan_out(finished, list(before))
    after = {s.part: s for s in done}
    for part in before:
        fs, path = pafs.FileSystem.from_uri(batch.checked_path(part))
        fs.delete_file(path)
    return [after.get(s.part, s) for s in staged]


def references(use_case: UseCase, name: str, tables: Tables) -> dict[str, Referenced]:
    """The committed columns that ``references`` of source ``name`` mean.

    Raises ConfigError (no such column), InputError (a referenced table has no rows yet).
    """
    found = {}
    for key, target in use_case.sources[name].references.items():
        other, column = referred(name, key, target, use_case.sources)
        table = f"raw.{use_case.name}__{other}"
        if tables.current(table) is None or column not in tables.schema(table).names:
            raise InputError(
                f"use_case.sources.{name}.references.{key}: table {table} has no {column!r} yet; ingest {other} first."
            )
        same_tenant = bool(use_case.sources[name].tenant and use_case.sources[other].tenant)
        found[key] = Referenced(table, column, same_tenant)
    return found


def find(rows: pa.Table, source: Source, tables: Tables, raw: str, referenced: Mapping[str, Referenced]) -> pa.Table:
    """Find which of ``rows`` (see ``keys_of``) break a rule across rows, also against what is committed."""
    with database() as db:
        db.register("rows", rows)
        existing = refuses_keys(source) and tables.current(raw) is not None
        if existing:
            _existing(db, source, tables, raw)
        for key, target in referenced.items():
            _referenced(db, key, rows.schema.field(key).type, target, tables)
        return broken(
            db, source, existing=existing, referenced={key: one.same_tenant for key, one in referenced.items()}
        )


@contextmanager
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB of its own that keeps to a bound of memory, times in UTC."""
    with (
        tempfile.TemporaryDirectory(prefix="raysaas-") as folder,
        duckdb.connect(config={"memory_limit": _MEMORY, "temp_directory": folder}) as db,
    ):
        db.execute("SET TimeZone = 'UTC'")
        yield db


def _keys(batch: Batch, parts: Sequence[int]) -> pa.Table:
    """The keys of all parts in order, mapped into memory where they are local files, positions made unique."""
    tables, newest = [], None
    for part in parts:
        rows = _checked(batch, part)
        keys = keys_of(rows, batch.source)
        at = keys.column_names.index(POS)
        keys = keys.set_column(at, POS, pa.array(np.arange(rows.num_rows) + (part << _PART_BITS)))
        if batch.source.time_order:
            times = rows["event_time"].cast(pa.int64()).to_numpy()
            keys = keys.append_column(BEHIND, pa.array(behind(times, newest)))
            newest = max(int(times.max()), newest if newest is not None else int(times.min()))
        tables.append(keys)
    return pa.concat_tables(tables)


def _checked(batch: Batch, part: int) -> pa.Table:
    fs, path = pafs.FileSystem.from_uri(batch.checked_path(part))
    source = pa.memory_map(path) if isinstance(fs, pafs.LocalFileSystem) else fs.open_input_file(path)
    return pa.ipc.open_file(source).read_all()


def _existing(db: duckdb.DuckDBPyConnection, source: Source, tables: Tables, raw: str) -> None:
    """Keep of the committed rows those with a key of the new ones."""
    keys = keys_sql(source)
    wanted = ["tenant", *source.unique, *(source.columns if drops_copies(source) else ())]
    present = [name for name in dict.fromkeys(wanted) if name in tables.schema(raw).names]
    copy = f", {same(source, present)} AS {COPIES}" if drops_copies(source) else ""
    db.register("committed", tables.table(raw).scan(selected_fields=tuple(present)).to_arrow_batch_reader())
    db.execute(f"CREATE TABLE existing AS SELECT {keys}{copy} FROM committed SEMI JOIN rows USING ({keys})")
    db.unregister("committed")


def _referenced(db: duckdb.DuckDBPyConnection, key: str, kind: pa.DataType, target: Referenced, tables: Tables) -> None:
    """Keep the distinct values that column ``key`` may name, in its own type."""
    fields = (target.column, "tenant") if target.same_tenant else (target.column,)
    db.register("others", tables.table(target.table).scan(selected_fields=fields).to_arrow_batch_reader())
    sql = _SQL_TYPES.get(str(kind), "TIMESTAMPTZ")
    tenant = ", tenant" if target.same_tenant else ""
    db.execute(
        f'CREATE TABLE "referenced_{key}" AS SELECT DISTINCT TRY_CAST("{target.column}" AS {sql}) AS value{tenant} '
        "FROM others"
    )
    db.unregister("others")


def _within(found: pa.Table, where: np.ndarray) -> pa.Table:
    mine = found.filter(pa.array(where))
    local = pc.bit_wise_and(mine["pos"], (1 << _PART_BITS) - 1)
    return mine.set_column(0, FOUND.field("pos"), local)


def finish(batch: Batch, staged: Staged, found: pa.Table) -> Staged:
    """Stage the checked rows of a part without the rows ``found``, and those for quarantine; returns what it is now."""
    file, rows = batch.parts[staged.part].file, _checked(batch, staged.part).select(batch.schema.names)
    done = take_out(rows, found, {file.digest[:16]: file.uri}, batch.now)
    _write(batch.accepted_path(staged.part), done.kept)
    _write(batch.refused_path(staged.part, late=True), tried(done.refused, batch.attempt))
    return replace(
        staged, num_accepted=done.kept.num_rows, num_refused=staged.num_refused + done.refused.num_rows,
        num_late=done.refused.num_rows, num_copies=staged.num_copies + done.copies,
        broken=merged([*staged.broken, *tally(done.refused, batch.source), *done.told]),
        nulls={name: done.kept[name].null_count for name in own_columns(batch.schema)}, newest=latest(done.kept),
        trace=staged.trace + trace(done.refused),
    )  # fmt: skip


def _write(uri: str, rows: pa.Table) -> None:
    sink = Sink(uri, rows.schema)
    sink.write(rows)
    sink.close()
