"""How far the distribution of each column moved between two versions of a table: PSI over bins of the first.

Bins are about ten quantiles of numbers and the twenty commonest values of categories, found and counted by DuckDB in
one pass each over a stream; missing values are a bin of their own.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa

from raysaas.datasets.side import Side, quoted
from raysaas.drift.detectors import psi_shift

_NUM_BINS, _NUM_VALUES = 10, 20


def shifts(connection: duckdb.DuckDBPyConnection, a: Side, b: Side, names: Sequence[str]) -> list[dict[str, Any]]:
    """PSI of each number and category column, strongest first, with the rows of both sides and the shares missing."""
    kinds = {name: _kind(a.schema.field(name).type) for name in names}
    names = [name for name in names if kinds[name]]
    if not names or not a.num_rows or not b.num_rows:
        return []
    bins = [_conditions(name, kinds[name], marks) for name, marks in _marks(connection, a, names, kinds).items()]
    counts = [_counted(connection, side, names, bins) for side in (a, b)]
    found = []
    for name, old, new in zip(names, *counts, strict=True):
        shift = psi_shift(old, new)
        missing = [round(side[0] / sum(side), 4) for side in (old, new)]
        told = {"psi": round(shift.psi, 4), "excess": round(shift.excess, 4), "pvalue": float(f"{shift.pvalue:.3g}")}
        found.append({"column": name, **told, "rows": [sum(old), sum(new)], "missing": missing})
    return sorted(found, key=lambda shift: -shift["excess"])


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "category" if pa.types.is_string(kind) or pa.types.is_boolean(kind) else ""


def _marks(
    connection: duckdb.DuckDBPyConnection, side: Side, names: Sequence[str], kinds: dict[str, str]
) -> dict[str, list[Any]]:
    """Bin edges of numbers and commonest values of categories, in one pass."""
    shares = [i / _NUM_BINS for i in range(1, _NUM_BINS)]
    asked = {
        "number": "approx_quantile(CASE WHEN isfinite({0}::DOUBLE) THEN {0}::DOUBLE END, " + f"{shares})",
        "category": "approx_top_k({0}::VARCHAR, " + f"{_NUM_VALUES})",
    }
    connection.register("rows", side.read(names))
    query = ", ".join(asked[kinds[name]].format(quoted(name)) for name in names)
    found = connection.sql(f"SELECT {query} FROM rows").fetchall()[0]
    connection.unregister("rows")
    return {name: sorted({m for m in marks or [] if m is not None}) for name, marks in zip(names, found, strict=True)}


def _conditions(name: str, kind: str, marks: list[Any]) -> list[str]:
    """The bins of a column as SQL: missing first; what fits no other bin is the last."""
    column = quoted(name)
    if kind == "category":
        values = ["'" + mark.replace("'", "''") + "'" for mark in marks]
        known = [f"{column}::VARCHAR = {value}" for value in values]
        rest = f"{column}::VARCHAR NOT IN ({', '.join(values)})" if values else f"{column} IS NOT NULL"
        return [f"{column} IS NULL", *known, rest]
    number, missing = f"{column}::DOUBLE", f"({column} IS NULL OR isnan({column}::DOUBLE))"
    edges = ["'-inf'::DOUBLE", *map(repr, marks), "'inf'::DOUBLE"]
    inner = [f"{number} >= {low} AND {number} < {high}" for low, high in pairwise(edges)]
    inner[-1] = f"{number} >= {edges[-2]} AND NOT isnan({number})"
    return [missing, *inner]


def _counted(
    connection: duckdb.DuckDBPyConnection, side: Side, names: Sequence[str], bins: Sequence[Sequence[str]]
) -> list[list[int]]:
    connection.register("rows", side.read(names))
    asked = ", ".join(f"count(*) FILTER ({condition})" for conditions in bins for condition in conditions)
    found = list(connection.sql(f"SELECT {asked} FROM rows").fetchall()[0])
    connection.unregister("rows")
    return [[found.pop(0) for _ in conditions] for conditions in bins]
