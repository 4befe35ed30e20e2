"""A contract to begin with: what every row of a source's newest version keeps, as YAML to paste into conf and edit."""

import math
from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from raysaas.errors import NotFound
from raysaas.ingest.binding import ROLES
from raysaas.ingest.guess import named_id
from raysaas.ingest.planning import STORED, Target
from raysaas.ingest.settling import database
from raysaas.stores.tables import Tables
from raysaas.use_case import ColumnType, Source, UseCase

_FEW = 20  # a category with at most so many values lists them
_EXACT = 2**53  # whole numbers above have no exact float, so that a bound could refuse the row it was taken from


def infer_contract(use_case: UseCase, name: str, tables: Tables) -> dict[str, Any]:
    """Types, ``required``, bounds, values, null rates and a unique key that all rows of source ``name`` keep.

    Raises NotFound when the source has no rows.
    """
    target, source = Target(use_case.name, name), use_case.sources[name]
    snapshot = tables.current(target.raw)
    if snapshot is None:
        raise NotFound(f"Source {name!r} has no committed rows yet: ingest it first.")
    schema = tables.schema(target.raw)
    own = [f for f in schema if f.name not in ("row_id", *ROLES) and f.name not in source.derive]
    with database() as db:
        fields = tuple(dict.fromkeys(["tenant", *(f.name for f in own)]))
        db.register("scan", tables.table(target.raw).scan(selected_fields=fields).to_arrow_batch_reader())
        db.execute("CREATE TABLE t AS FROM scan")
        told = _summaries(db, own)
        num_rows = int(db.execute("SELECT count(*) FROM t").fetchall()[0][0])
        columns = {f.name: _column(db, f, source, told[f.name], num_rows) for f in own}
        unique = [_unique(db, own, source, num_rows)]
    contract: dict[str, Any] = {"columns": columns} | ({"unique": unique} if unique[0] else {})
    text = yaml.safe_dump(contract, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return {"source": name, "snapshot_id": snapshot, "num_rows": num_rows, "yaml": text}


def _summaries(db: duckdb.DuckDBPyConnection, own: list[pa.Field]) -> dict[str, tuple[int, Any, Any]]:
    """Per column: nulls, least and greatest value."""
    told = ", ".join(f'count(*) - count("{f.name}"), min("{f.name}"), max("{f.name}")' for f in own)
    values = db.execute(f"SELECT {told} FROM t").fetchall()[0]
    return {f.name: tuple(values[3 * i : 3 * i + 3]) for i, f in enumerate(own)}


def _column(
    db: duckdb.DuckDBPyConnection, column: pa.Field, source: Source, told: tuple[int, Any, Any], num_rows: int
) -> dict[str, Any]:
    nulls, low, high = told
    declared = source.columns.get(column.name)
    kind = declared.type if declared else _type(column.type)
    spec: dict[str, Any] = {"type": str(kind)}
    if declared and declared.column and declared.column != column.name:
        spec["column"] = declared.column
    spec |= {"max_null_rate": _loose(nulls / num_rows)} if nulls else {"required": True}
    if kind in (ColumnType.number, ColumnType.integer) and low is not None:
        spec |= {key: value for key, value in (("min", low), ("max", high)) if abs(value) <= _EXACT}
    if kind is ColumnType.category and (values := _values(db, column.name)):
        spec["values"] = values
    return spec | ({} if declared is None or declared.feature else {"feature": False})


def _type(kind: pa.DataType) -> ColumnType:
    return ColumnType.time if pa.types.is_timestamp(kind) else STORED.get(str(kind), ColumnType.category)


def _loose(rate: float) -> float:
    """Half as much again, so that a batch like this one passes, in whole hundredths."""
    return min(1.0, math.ceil(rate * 150) / 100)


def _values(db: duckdb.DuckDBPyConnection, name: str) -> list[str]:
    """The values of a category that has few, each seen twice on average at least; YAML could not hold ``${``."""
    found = db.execute(
        f'SELECT "{name}", count(*) FROM t WHERE "{name}" IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT {_FEW + 1}'
    ).fetchall()
    few = len(found) <= _FEW and sum(count for _, count in found) >= 2 * len(found)
    return [value for value, _ in found] if few and not any("${" in value for value, _ in found) else []


def _unique(db: duckdb.DuckDBPyConnection, own: list[pa.Field], source: Source, num_rows: int) -> str:
    """A column whose values are all there and all different within a tenant, named like an id; or nothing."""
    tenant = '"tenant", ' if source.tenant else ""
    roles: Mapping[str, int] = {source.entity or "": 0}
    likely = [f.name for f in own if named_id(f.name) or f.name in roles or f.name in source.unique]
    for name in sorted(likely, key=lambda one: roles.get(one, 1)):
        nulls = f'count(*) FILTER ("{name}" IS NULL)'
        missing, distinct = db.execute(f'SELECT {nulls}, count(DISTINCT ({tenant}"{name}")) FROM t').fetchall()[0]
        if not missing and distinct == num_rows > 1:
            return str(name)
    return ""
