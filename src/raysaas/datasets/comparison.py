"""Two versions of a table side by side: columns, rows by key, and the distribution of each column.

DuckDB reads both as streams; keys and row hashes go to a database file on disk, so memory stays within ``MEMORY`` for
any number of rows.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raysaas.datasets.column_shift import shifts
from raysaas.datasets.side import Side, quoted

MEMORY = "1GB"
_UNCOMPARED = ("row_id", "known_at")
_KEYS = (["row_id"], ["id"], ["decision_id", "observed_at"], ["tenant", "entity", "event_time"])


def keys_of(unique: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns that tell rows apart: ``unique`` and the tenant, or what tables of the platform have for it."""
    if unique and set(unique) <= set(names):
        return list(dict.fromkeys([*(["tenant"] if "tenant" in names else []), *unique]))
    return next((keys for keys in _KEYS if set(keys) <= set(names)), list(names))


def compared(a: Side, b: Side, keys: Sequence[str], home: str, num_examples: int) -> dict[str, Any]:
    """``columns``, ``rows`` and ``shift`` of ``b`` against ``a``."""
    columns = column_changes(a.schema, b.schema)
    retyped = {change["column"] for change in columns["retyped"]}
    shared = [name for name in a.schema.names if name in b.schema.names and name not in retyped]
    with _database(home) as connection:
        rows = _row_changes(connection, a, b, keys, shared, num_examples)
        shift = shifts(connection, a, b, [name for name in shared if name not in (*keys, *_UNCOMPARED, "entity")])
    return {"columns": columns, "rows": rows, "shift": shift}


def column_changes(a: pa.Schema, b: pa.Schema) -> dict[str, list[dict[str, str]]]:
    """Columns ``added``, ``removed`` and ``retyped``."""

    def told(schema: pa.Schema, names: Sequence[str]) -> list[dict[str, str]]:
        return [{"column": name, "type": str(schema.field(name).type)} for name in names]

    both = [name for name in a.names if name in b.names and a.field(name).type != b.field(name).type]
    return {
        "added": told(b, [name for name in b.names if name not in a.names]),
        "removed": told(a, [name for name in a.names if name not in b.names]),
        "retyped": [{"column": n, "from": str(a.field(n).type), "to": str(b.field(n).type)} for n in both],
    }


@contextmanager
def _database(home: str) -> Iterator[duckdb.DuckDBPyConnection]:
    scratch = Path(home) / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="diff-") as folder:
        config = {"memory_limit": MEMORY, "temp_directory": folder, "preserve_insertion_order": "false"}
        with duckdb.connect(f"{folder}/rows.duckdb", config=config) as connection:
            yield connection


# --- rows


def _row_changes(
    connection: duckdb.DuckDBPyConnection, a: Side, b: Side, keys: Sequence[str], shared: Sequence[str], num: int
) -> dict[str, Any]:
    values = [name for name in shared if name not in (*keys, *_UNCOMPARED)]
    for side, version in enumerate((a, b)):
        # As text, so that keys of another type are compared by what they say.
        chosen = ", ".join(f"CAST({quoted(key)} AS VARCHAR) AS k{i}" for i, key in enumerate(keys))
        content = f"hash({', '.join(map(quoted, values))})" if values else "0"
        connection.register("rows", version.read([*keys, *values]))
        create = "INSERT INTO sides" if side else "CREATE TABLE sides AS"
        connection.execute(f"{create} SELECT {chosen}, {side} AS side, CAST({content} AS HUGEINT) AS h FROM rows")
        connection.unregister("rows")
    connection.execute(
        "CREATE TABLE changes AS SELECT *, CASE WHEN a = 0 THEN 'added' WHEN b = 0 THEN 'removed' ELSE 'changed' END "
        "AS change FROM (SELECT * EXCLUDE (side, h), count(*) FILTER (side = 0) AS a, count(*) FILTER (side = 1) AS b, "
        "sum(h) FILTER (side = 0) AS content_a, sum(h) FILTER (side = 1) AS content_b FROM sides GROUP BY ALL) "
        "WHERE a = 0 OR b = 0 OR a <> b OR content_a <> content_b"
    )
    counted = dict(connection.sql("SELECT change, sum(greatest(a, b)) FROM changes GROUP BY 1").fetchall())
    counts = {change: int(counted.get(change, 0)) for change in ("added", "removed", "changed")}
    return {"key": list(keys), **counts, "examples": _examples(connection, a, b, keys, values, num)}


def _examples(
    connection: duckdb.DuckDBPyConnection, a: Side, b: Side, keys: Sequence[str], values: Sequence[str], num: int
) -> dict[str, list[dict[str, Any]]]:
    """Up to ``num`` rows of each change; of changed ones the columns that differ, as [before, after]."""
    connection.execute(
        "CREATE TABLE chosen AS SELECT * FROM changes "
        f"QUALIFY row_number() OVER (PARTITION BY change ORDER BY {', '.join(_numbered(keys))}) <= {num}"
    )
    if connection.sql("SELECT count(*) FROM chosen").fetchall()[0][0] == 0:
        return {}
    old, new = (_chosen(connection, side, keys, values) for side in (a, b))
    examples: dict[str, list[dict[str, Any]]] = {}
    for change, *key in connection.sql(
        f"SELECT change, {', '.join(_numbered(keys))} FROM chosen ORDER BY ALL"
    ).fetchall():
        before, after = old.get(tuple(key), {}), new.get(tuple(key), {})
        named = dict(zip(keys, key, strict=True))
        shown = after or before
        if change == "changed":
            shown = {name: [before[name], after[name]] for name in values if before[name] != after[name]}
        examples.setdefault(change, []).append({**named, **shown})
    return examples


def _chosen(
    connection: duckdb.DuckDBPyConnection, side: Side, keys: Sequence[str], values: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The values of the chosen rows, by key."""
    connection.register("rows", side.read([*keys, *values]))
    same = " AND ".join(f"CAST(rows.{quoted(key)} AS VARCHAR) IS NOT DISTINCT FROM k{i}" for i, key in enumerate(keys))
    columns = ", ".join([*_numbered(keys), *(f"rows.{quoted(name)}" for name in values)])
    found = connection.sql(f"SELECT {columns} FROM rows JOIN chosen ON {same}").to_arrow_table()
    connection.unregister("rows")
    cells = zip(*(column.to_pylist() for column in found.columns), strict=True)
    return {row[: len(keys)]: dict(zip(values, row[len(keys) :], strict=True)) for row in cells}


def _numbered(keys: Sequence[str]) -> list[str]:
    return [f"k{i}" for i in range(len(keys))]
