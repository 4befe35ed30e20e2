"""The rows of a use case's sources as they were known at a time, with the Iceberg snapshots they were read from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression

from raysaas.errors import InputError
from raysaas.features.current_versions import commit_order, current_versions
from raysaas.features.definitions import CONTEXT
from raysaas.stores.tables import Tables
from raysaas.use_case import ColumnType, Source, UseCase

STAMP = pa.timestamp("us", "UTC")
TIMES = {"event_time", "known_at", "moment"}
LOGS = ("log.decisions", "log.outcomes")


def sql(query: str, **tables: pa.Table) -> pa.Table:
    """Run DuckDB over Arrow tables; times enter as microseconds and columns named as times leave as UTC timestamps."""
    with duckdb.connect() as connection:
        for name, table in tables.items():
            connection.register(name, _as_micros(table))
        result = connection.sql(query).to_arrow_table()
    for position, field in enumerate(result.schema):
        if field.name in TIMES:
            result = result.set_column(position, field.name, result[field.name].cast(pa.int64()).cast(STAMP))
    return result


def _as_micros(table: pa.Table) -> pa.Table:
    for position, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(position, field.name, table[field.name].cast(STAMP).cast(pa.int64()))
    return table


@dataclass(frozen=True)
class Raw:
    """What was known at ``as_of``: ``snapshots`` of the source tables and, by source name, their rows on demand."""

    as_of: datetime
    snapshots: Mapping[str, int]
    read: Callable[[str], pa.Table]
    sources: Mapping[str, Source]

    def newest(self) -> datetime:
        """When the data end: the latest time, of events or of knowledge, in the sources that have one."""
        tops = [pc.max(rows[column]).as_py() for rows in self._timed() for column in ("event_time", "known_at")]
        return min(self.as_of, max((top for top in tops if top), default=self.as_of))

    def newest_event(self) -> datetime:
        """The latest event time in the sources that have times."""
        tops = [pc.max(rows["event_time"]).as_py() for rows in self._timed()]
        return min(self.as_of, max((top for top in tops if top), default=self.as_of))

    def oldest_event(self) -> datetime:
        """The first event time in the sources that have times."""
        firsts = [pc.min(rows["event_time"]).as_py() for rows in self._timed()]
        return min((first for first in firsts if first), default=self.as_of)

    def _timed(self) -> list[pa.Table]:
        return [self.read(name) for name, source in self.sources.items() if source.time]


def raw(
    use_case: UseCase,
    tables: Tables,
    as_of: datetime,
    snapshots: Mapping[str, int] | None = None,
    where: BooleanExpression | None = None,
) -> Raw:
    """Rows known by ``as_of`` of the given ``snapshots`` by table, else of those that :func:`pins` names.

    Rows come sorted by tenant, entity, event time and row id; with ``where`` (pyiceberg's) only some are read. Raises
    InputError when a source has no rows.
    """
    names = {name: f"raw.{use_case.name}__{name}" for name in use_case.sources}
    chosen = pins(use_case, tables, as_of) if snapshots is None else snapshots
    read_from = {table: chosen[table] for table in names.values()}

    @cache
    def read(name: str) -> pa.Table:
        table = tables.read(names[name], snapshot=read_from[names[name]], where=where)
        table = table.set_column(
            table.column_names.index("entity"), "entity", pc.coalesce(table["entity"], table["row_id"])
        )
        table = table.filter(pc.less_equal(table["known_at"], pa.scalar(as_of, STAMP)))
        table = current_versions(table, use_case.sources[name], commit_order(tables.snapshots(names[name])))
        return table.sort_by([(key, "ascending") for key in ("tenant", "entity", "event_time", "row_id")])

    return Raw(as_of, read_from, read, use_case.sources)


def pins(use_case: UseCase, tables: Tables, as_of: datetime | None) -> dict[str, int]:
    """The snapshot of each table that a training set of ``as_of`` reads; None is now: the newest of each.

    Of a source counts the newest snapshot committed by then. A source whose first commit came later holds history that
    was brought in afterwards: commits say nothing of what was known then, so its newest snapshot is read and
    ``known_at`` alone decides. A log that has no commit by then is not read: logs are written as things happen.
    Raises InputError when a source has no rows.
    """
    logs = LOGS if use_case.examples.feedback else ()
    sources = [f"raw.{use_case.name}__{name}" for name in use_case.sources]
    found = {table: _pin(tables, table, as_of) for table in (*sources, *logs)}
    for table in sources:
        found[table] = found[table] or tables.current(table)
        if found[table] is None:
            raise InputError(f"table {table!r} has no rows: run the ingest job for this source first.")
    return {table: snapshot for table, snapshot in found.items() if snapshot is not None}


def _pin(tables: Tables, table: str, as_of: datetime | None) -> int | None:
    if as_of is None:
        return tables.current(table)
    return next((s["snapshot_id"] for s in reversed(tables.snapshots(table)) if s["committed_at"] <= as_of), None)


def value_columns(use_case: UseCase, source_name: str, schema: pa.Schema) -> list[str]:
    """Columns of a source that may be features: no id, no time, no text, none that conf excludes."""
    source, examples = use_case.sources[source_name], use_case.examples
    hidden = {source.entity, source.tenant, source.time, source.known_at, *examples.exclude, *CONTEXT}
    typed = {
        name: column
        for name, column in source.columns.items()
        if column.feature and column.type not in (ColumnType.text, ColumnType.time)
    }
    derived = [name for name in source.derive if name not in source.columns]
    names = [name for name in [*typed, *derived] if name not in hidden and name in schema.names]
    return [name for name in names if not pa.types.is_timestamp(schema.field(name).type)]
