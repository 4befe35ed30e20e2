"""The rows of a use case's sources as they were known at a time, with the Iceberg snapshots they were read from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import BooleanExpression

from raysaas.errors import InputError
from raysaas.features.definitions import CONTEXT, STAMP
from raysaas.features.fanout import running
from raysaas.features.known_rows import HeldRows, KnownRows, StoredRows
from raysaas.settings import Features
from raysaas.stores.datafiles import data_files
from raysaas.stores.tables import Tables, commit_order
from raysaas.use_case import ColumnType, Source, UseCase

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
    """What was known at ``as_of``: ``snapshots`` of the source tables and, by source name, their rows on demand, by
    tenant, entity, event time and row id. ``schema`` tells the columns that there are."""

    as_of: datetime
    snapshots: Mapping[str, int]
    rows: Callable[[str], KnownRows]
    schema: Callable[[str], pa.Schema]
    sources: Mapping[str, Source]

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """``columns`` of a source, all by default."""
        return self.rows(name).only(columns or self.schema(name).names).read()

    def newest(self) -> datetime:
        """When the data end: the latest time, of events or of knowledge, in the sources that have one."""
        return min(self.as_of, max(self._edges("newest", "known"), default=self.as_of))

    def newest_event(self) -> datetime:
        """The latest event time in the sources that have times."""
        return min(self.as_of, max(self._edges("newest"), default=self.as_of))

    def oldest_event(self) -> datetime:
        """The first event time in the sources that have times."""
        return min(self._edges("oldest"), default=self.as_of)

    def _edges(self, *names: str) -> list[datetime]:
        sources = [name for name, source in self.sources.items() if source.time]
        rows = [self.rows(name).only(["event_time", "known_at"]).reduced(_edges, _merged_edges) for name in sources]
        return [edge for table in rows for name in names if (edge := table[name][0].as_py()) is not None]


def _edges(rows: pa.Table) -> pa.Table:
    edges = {
        "oldest": pc.min(rows["event_time"]),
        "newest": pc.max(rows["event_time"]),
        "known": pc.max(rows["known_at"]),
    }
    return pa.table({name: pa.array([edge.as_py()], STAMP) for name, edge in edges.items()})


def _merged_edges(edges: pa.Table) -> pa.Table:
    found = {"oldest": pc.min(edges["oldest"]), "newest": pc.max(edges["newest"]), "known": pc.max(edges["known"])}
    return pa.table({name: pa.array([edge.as_py()], STAMP) for name, edge in found.items()})


def raw(
    use_case: UseCase,
    tables: Tables,
    as_of: datetime,
    snapshots: Mapping[str, int] | None = None,
    where: BooleanExpression | None = None,
    features: Features | None = None,
) -> Raw:
    """Rows known by ``as_of`` of the given ``snapshots`` by table, else of those that :func:`pins` names.

    With ``where`` (pyiceberg's) only some are read, in this process; else those of a source with more than
    ``features.rows_per_partition`` stay in their files while Ray runs. Raises InputError when a source has no rows.
    """
    names = {name: f"raw.{use_case.name}__{name}" for name in use_case.sources}
    chosen = pins(use_case, tables, as_of) if snapshots is None else snapshots
    read_from = {table: chosen[table] for table in names.values()}
    how = features or Features()

    @cache
    def schema(name: str) -> pa.Schema:
        return tables.schema(names[name], read_from[names[name]])

    @cache
    def rows(name: str) -> KnownRows:
        columns, snapshot = tuple(schema(name).names), read_from[names[name]]
        data = data_files(tables, names[name], snapshot=snapshot, columns=columns, where=where)
        order = tuple(commit_order(tables.history(names[name])))
        stored = StoredRows(data, use_case.sources[name], as_of, order, columns, how)
        spread = where is None and how.partitions > 1 and stored.num_rows > how.rows_per_partition and running()
        return stored if spread else HeldRows(stored.read())

    return Raw(as_of, read_from, rows, schema, use_case.sources)


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
    commits = tables.history(table)
    past = sum(one["committed_at"] <= as_of for one in commits)
    # For a version that expired stands the next one: it has its rows, and ``known_at`` tells the later ones.
    left = (one["snapshot_id"] for one in commits[past - 1 :] if "expired" not in one)
    return next(left, None) if past else None


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
