"""Rules that hold between rows (unique keys, time order per entity), and the shape of refused rows. Pure.

They are found over all rows that passed the row rules, wherever those lie: a table in memory or staged Parquet files.
"""

from collections.abc import Mapping
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.ingest.binding import ROLES
from raysaas.ingest.casts import TIME, connection, flat
from raysaas.use_case import Source

QUARANTINE = pa.schema([
    ("source_file", pa.string()), ("row_number", pa.int64()), ("rule", pa.string()), ("column", pa.string()),
    ("value", pa.string()), ("row", pa.string()), ("known_at", TIME),
])  # fmt: skip

_LATE = """
    SELECT pos, event_time FROM (
        SELECT pos, event_time, max(event_time) OVER (
            PARTITION BY tenant, entity ORDER BY pos ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS seen FROM (SELECT * FROM rows ANTI JOIN twice USING (pos))
    ) WHERE seen > event_time"""


def quarantine(columns: list[pa.Array], now: datetime) -> pa.Table:
    """Build quarantine rows of the columns of ``QUARANTINE`` but the last, which is ``now``."""
    return pa.table([*columns, pa.repeat(pa.scalar(now, TIME), len(columns[0]))], schema=QUARANTINE)


def to_json(table: pa.Table) -> pa.Array:
    """Each row as one JSON object."""
    with connection() as db:
        db.register("t", table)
        return flat(db.sql("SELECT to_json(t)::VARCHAR AS x FROM t").to_arrow_table()["x"])


def broken(db: duckdb.DuckDBPyConnection, source: Source, existing: str | None = None) -> pa.Table:
    """Find rows of relation ``rows`` (accepted rows, and ``pos``, their order) that break a rule between rows.

    ``existing`` names a relation with the unique keys of the rows committed before. Returns ``pos``, ``rule``,
    ``column`` and ``value``, by ``pos``. A row with a null among its keys equals no other row.
    """
    db.execute("SET TimeZone = 'UTC'")
    keys, time = ", ".join(source.unique), source.time or "event_time"
    found = f"SELECT pos, 'unique' AS rule, '{keys}' AS \"column\", value::VARCHAR AS value FROM twice"
    if source.time_order:
        found += f" UNION ALL SELECT pos, 'time_order', '{time}', event_time::VARCHAR FROM ({_LATE})"
    return db.sql(f"WITH twice AS ({_twice(source.unique, existing)}) {found} ORDER BY pos").to_arrow_table()


def _twice(unique: list[str], existing: str | None) -> str:
    if not unique:
        return "SELECT NULL::BIGINT AS pos, NULL AS value WHERE false"
    keys = ", ".join(f'"{key}"' for key in unique)
    some = " AND ".join(f'"{key}" IS NOT NULL' for key in unique)
    ranked = f"SELECT pos, {keys}, row_number() OVER (PARTITION BY {keys} ORDER BY pos) AS n FROM rows WHERE {some}"
    sql = f"SELECT pos, concat_ws(', ', {keys}) AS value FROM ({ranked}) WHERE n > 1"
    if existing:
        sql += f" UNION SELECT pos, concat_ws(', ', {keys}) FROM rows SEMI JOIN {existing} USING ({keys})"
    return sql


def without(rows: pa.Table, found: pa.Table, files: Mapping[str, str], now: datetime) -> tuple[pa.Table, pa.Table]:
    """Take the rows at ``found['pos']`` out of ``rows``; returns those that stay and the others as quarantine rows.

    ``files`` maps the first part of a row id to its source file.
    """
    if not found.num_rows:
        return rows, QUARANTINE.empty_table()
    at = found["pos"].combine_chunks()
    stay = np.ones(rows.num_rows, bool)
    stay[at.to_numpy()] = False
    out = rows.take(at)
    ids = pc.split_pattern(flat(out["row_id"]), "-")
    digests, numbers = pc.list_element(ids, 0), pc.list_element(ids, 1).cast(pa.int64())
    names = pa.array([files[digest] for digest in digests.to_pylist()], pa.string())
    own = out.select([name for name in out.column_names if name not in ("row_id", *ROLES)])
    rule, column, value = (flat(found[name]) for name in ("rule", "column", "value"))
    return rows.filter(pa.array(stay)), quarantine([names, numbers, rule, column, value, to_json(own)], now)
