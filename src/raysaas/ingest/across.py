"""Rules that hold between rows: exact copies, references, unique keys, time order. Pure.

They are found over all rows that passed the row rules, wherever those lie: a table in memory or the keys of staged
files. Each rule looks at the rows that the one before left.
"""

from collections.abc import Collection, Mapping

import duckdb
import numpy as np
import pyarrow as pa

from raysaas.ingest.actions import DROPPED, action, drops_copies, refuses_keys
from raysaas.ingest.casts import connection, flat
from raysaas.use_case import OnBroken, Source

FOUND = pa.schema([
    ("pos", pa.int64()), ("rule", pa.string()), ("column", pa.string()), ("value", pa.string()),
    ("action", pa.string()),
])  # fmt: skip
COPY = "exact"
# Columns that the rules need beside those of the source, under names that no source has.
POS, BEHIND, COPIES = "raysaas_pos", "raysaas_behind", "raysaas_copy"


def key_columns(source: Source) -> list[str]:
    """The columns of accepted rows that the rules between rows look at; none when there is no such rule."""
    keys = [*source.references, *(source.unique if refuses_keys(source) else ())]
    keys += ["entity", "event_time"] if source.time_order else []
    return list(dict.fromkeys(["tenant", *keys])) if keys or drops_copies(source) else []


def keys_of(rows: pa.Table, source: Source) -> pa.Table:
    """What the rules between rows need of accepted ``rows``: ``key_columns``, ``POS``, maybe ``COPIES``."""
    rows = with_copy(rows, source)
    copy = [COPIES] if drops_copies(source) else []
    return rows.select([*key_columns(source), *copy]).append_column(POS, pa.array(np.arange(rows.num_rows)))


def with_copy(rows: pa.Table, source: Source) -> pa.Table:
    """``rows`` and, where copies are dropped, column ``COPIES``: a digest that equal rows share."""
    if not drops_copies(source) or COPIES in rows.column_names:
        return rows
    with connection() as db:
        db.register("t", rows)
        copy = db.sql(f"SELECT {same(source, rows.column_names)} AS {COPIES} FROM t").to_arrow_table()[COPIES]
    return rows.append_column(COPIES, flat(copy))


def same(source: Source, present: Collection[str]) -> str:
    """SQL of a digest that two rows share when they are equal in all columns of the source."""
    fields = ", ".join(f"'{key}': \"{key}\"" if key in present else f"'{key}': NULL" for key in source.columns)
    return f"sha256(to_json({{{fields}}})::VARCHAR)[:32]"


def behind(times: np.ndarray, latest: int | None = None) -> np.ndarray:
    """Rows with an earlier time than some row before them, or than ``latest``: only their entities can be late."""
    so_far = np.maximum.accumulate(times if latest is None else np.concatenate([[latest], times]))
    return times < so_far if latest is None else times < so_far[1:]


def broken(
    db: duckdb.DuckDBPyConnection,
    source: Source,
    *,
    existing: bool = False,
    referenced: Mapping[str, bool] | None = None,
) -> pa.Table:
    """Find rows of relation ``rows`` (see ``keys_of``; with time order also ``BEHIND``) that break a rule between rows.

    With ``existing``, relation ``existing`` has the keys (and ``COPIES``) of rows committed before. For each column of
    ``referenced`` a relation ``referenced_COLUMN`` has the values that it may name, and whether only those of the same
    ``tenant``. Returns ``FOUND``, by ``pos``: rows to take out, and rows to warn of. A row with a null among its keys
    equals no other row.
    """
    db.execute("SET TimeZone = 'UTC'")
    alive, found = "rows", [FOUND.empty_table()]
    for rule, column, sql in _steps(source, existing, referenced or {}):
        rows = db.sql(_ordered(sql.replace("{alive}", alive))).to_arrow_table()
        does = DROPPED if rule == COPY else str(action(source, rule, column))
        constants = [pa.repeat(pa.scalar(value), rows.num_rows) for value in (rule, column, does)]
        columns = [rows["pos"], constants[0], constants[1], rows["value"], constants[2]]
        found.append(pa.table(columns, names=FOUND.names).cast(FOUND))
        if rows.num_rows and does != OnBroken.warn:
            gone = f"gone_{len(found)}"
            db.register(gone, rows.select(["pos"]).rename_columns([POS]))
            alive = f"(FROM {alive} ANTI JOIN {gone} USING ({POS}))"
    return pa.concat_tables(found).sort_by("pos")


def _ordered(sql: str) -> str:
    return f"SELECT {POS} AS pos, value::VARCHAR AS value FROM ({sql}) ORDER BY pos"


def _steps(source: Source, existing: bool, referenced: Mapping[str, bool]) -> list[tuple[str, str, str]]:
    """Rule, column and SQL (``pos`` and ``value`` of the rows that break it), in order."""
    steps = [(COPY, "", _copies(source, existing))] if drops_copies(source) else []
    steps += [("references", key, _dangling(key, tenant)) for key, tenant in referenced.items()]
    if refuses_keys(source):
        steps.append(("unique", ", ".join(source.unique), _twice(source, existing)))
    if source.time_order:
        steps.append(("time_order", source.time or "event_time", _LATE))
    return steps


def keys_sql(source: Source) -> str:
    """The unique key: with the tenant where the source has one."""
    return ", ".join(f'"{key}"' for key in dict.fromkeys([*(["tenant"] if source.tenant else []), *source.unique]))


def _copies(source: Source, existing: bool) -> str:
    partition = '"tenant", ' + COPIES if source.tenant else COPIES
    twice = f"SELECT {partition} FROM {{alive}} GROUP BY ALL HAVING count(*) > 1"
    ranked = f"SELECT {POS}, row_number() OVER (PARTITION BY {partition} ORDER BY {POS}) AS n"
    copies = f"{ranked} FROM {{alive}} SEMI JOIN ({twice}) USING ({partition})"
    sql = f"SELECT {POS}, NULL AS value FROM ({copies}) WHERE n > 1"
    if existing:
        sql += f" UNION SELECT {POS}, NULL FROM {{alive}} SEMI JOIN existing USING ({keys_sql(source)}, {COPIES})"
    return sql


def _dangling(key: str, same_tenant: bool) -> str:
    tenant = " AND r.tenant = a.tenant" if same_tenant else ""
    return (
        f'SELECT {POS}, "{key}" AS value FROM {{alive}} AS a WHERE "{key}" IS NOT NULL AND NOT EXISTS '
        f'(FROM "referenced_{key}" AS r WHERE r.value = a."{key}"{tenant})'
    )


def _twice(source: Source, existing: bool) -> str:
    keys = keys_sql(source)
    value = f"concat_ws(', ', {', '.join(f'{chr(34)}{key}{chr(34)}' for key in source.unique)}) AS value"
    some = " AND ".join(f'"{key}" IS NOT NULL' for key in source.unique)
    twice = f"SELECT {keys} FROM {{alive}} WHERE {some} GROUP BY ALL HAVING count(*) > 1"
    ranked = f"SELECT {POS}, {value}, row_number() OVER (PARTITION BY {keys} ORDER BY {POS}) AS n"
    sql = f"SELECT {POS}, value FROM ({ranked} FROM {{alive}} SEMI JOIN ({twice}) USING ({keys})) WHERE n > 1"
    return sql + (f" UNION SELECT {POS}, {value} FROM {{alive}} SEMI JOIN existing USING ({keys})" if existing else "")


# Only entities with a row behind some row before it, of whatever entity, can be out of order.
_LATE = f"""
    SELECT {POS}, event_time AS value FROM (
        SELECT {POS}, event_time, max(event_time) OVER (
            PARTITION BY tenant, entity ORDER BY {POS} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS seen FROM {{alive}} SEMI JOIN (SELECT tenant, entity FROM {{alive}} WHERE {BEHIND}) USING (tenant, entity)
    ) WHERE seen > event_time"""
