"""Versions of a dataset: ``raysaas data log``, ``show`` and ``diff``."""

import difflib
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa

from raysaas.datasets.comparison import compared, keys_of
from raysaas.datasets.side import Side, quoted
from raysaas.errors import ConfigError, NotFound
from raysaas.lineage.graph import file_nodes
from raysaas.settings import Settings
from raysaas.stores.tables import Tables

EXACT_ROWS = 1_000_000


def log(settings: Settings, source: str) -> dict[str, Any]:
    """Every version of a source's table, oldest first, with the model versions whose tag keeps it; how many expired.

    ``source`` is a source of the use case or the full name of a table. Raises NotFound naming the nearest one.
    """
    tables = Tables(settings.storage)
    table = table_of(settings, tables, source)
    tags = tables.tags(table)
    expired = sum("expired" in item for item in tables.history(table))
    return {"table": table, "versions": [_logged(item, tags) for item in tables.snapshots(table)], "expired": expired}


def _logged(item: dict[str, Any], tags: dict[str, int]) -> dict[str, Any]:
    said = item["properties"]
    numbers = {"rows_added": "added-records", "rows_deleted": "deleted-records", "rows": "total-records",
               "read": "raysaas.read", "quarantined": "raysaas.quarantined"}  # fmt: skip
    return {
        "snapshot_id": item["snapshot_id"],
        "committed_at": item["committed_at"].isoformat(),
        "operation": item["operation"],
        **{name: int(said[key]) for name, key in numbers.items() if key in said},
        "files": [node.facts["uri"] or node.id for node in file_nodes(said)],
        "kept_by": sorted(tag for tag, snapshot in tags.items() if snapshot == item["snapshot_id"]),
    }


def show(settings: Settings, source: str, rows: int = 5) -> dict[str, Any]:
    """One version (``SOURCE@VERSION``, the newest by default): its columns in numbers and some of its rows.

    VERSION as in :func:`version_of`. Memory does not grow with the rows: distinct values are counted exactly up to
    ``EXACT_ROWS`` rows and estimated beyond.
    """
    tables = Tables(settings.storage)
    name, _, version = source.partition("@")
    table = table_of(settings, tables, name)
    item = version_of(settings, tables, table, version)
    snapshot, schema = item["snapshot_id"], tables.schema(table, item["snapshot_id"])
    num_rows = tables.count(table, snapshot)
    first = next(iter(tables.batches(table, snapshot=snapshot, columns=schema.names)), None)
    return {
        "table": table,
        "snapshot_id": snapshot,
        "committed_at": item["committed_at"].isoformat(),
        "rows": num_rows,
        "columns": _columns(tables, table, snapshot, schema, exact=num_rows <= EXACT_ROWS),
        "first_rows": first.slice(0, rows).to_pylist() if first is not None else [],
    }


def _columns(tables: Tables, table: str, snapshot: int, schema: pa.Schema, *, exact: bool) -> list[dict[str, Any]]:
    """Type, nulls, least, greatest and number of distinct values of each column, in one pass."""
    count = "count(DISTINCT {})" if exact else "approx_count_distinct({})"
    asked = [text.format(quoted(name)) for name in schema.names for text in ("count({})", "min({})", "max({})", count)]
    reader = tables.batches(table, snapshot=snapshot, columns=schema.names)
    with duckdb.connect() as connection:
        connection.register("rows", reader)
        counted = connection.sql(f"SELECT count(*), {', '.join(asked)} FROM rows").to_arrow_table()
    total, *found = [column[0].as_py() for column in counted.columns]
    told = zip(schema, found[0::4], found[1::4], found[2::4], found[3::4], strict=True)
    return [
        {"column": field.name, "type": str(field.type), "nulls": total - held, "min": low, "max": high, "distinct": num}
        for field, held, low, high, num in told
    ]


def diff(settings: Settings, source: str, a: str, b: str, examples: int = 5) -> dict[str, Any]:
    """What changed from version ``a`` to ``b``: columns, rows by key, and each column's distribution.

    The key is the source's ``unique`` columns with the tenant, else the row id. Rows with a key that is in both count
    as changed when any column but ``row_id`` and ``known_at`` differs. Shift is PSI against bins of ``a``, with the
    expected sampling noise taken off as ``excess``. Memory is bounded; keys beyond it go to disk below ``home``.
    """
    tables = Tables(settings.storage)
    table = table_of(settings, tables, source)
    old, new = (_side(settings, tables, table, text) for text in (a, b))
    case = settings.use_case
    unique = next((s.unique for name, s in case.sources.items() if table == f"raw.{case.name}__{name}"), [])
    keys = keys_of(unique, [name for name in old.schema.names if name in new.schema.names])
    named = {side: {"snapshot_id": item.snapshot, "rows": item.num_rows} for side, item in (("a", old), ("b", new))}
    return {"table": table, **named, **compared(old, new, keys, settings.storage.home, examples)}


def _side(settings: Settings, tables: Tables, table: str, text: str) -> Side:
    snapshot = version_of(settings, tables, table, text)["snapshot_id"]
    return Side(tables, table, snapshot, tables.schema(table, snapshot), tables.count(table, snapshot))


def table_of(settings: Settings, tables: Tables, source: str) -> str:
    """The table that ``source`` means; NotFound names the nearest source or table."""
    use_case = settings.use_case
    table = f"raw.{use_case.name}__{source}" if source in use_case.sources else source
    if "." in table and tables.current(table) is not None:
        return table
    if source in use_case.sources:
        raise NotFound(f"Source {source!r} of {use_case.name} has no version yet: run the ingest job first.")
    known = [*use_case.sources, *tables.names()]
    close = difflib.get_close_matches(source, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}."
    raise NotFound(f"There is no source or table {source!r} in use case {use_case.name}: {hint}")


def version_of(settings: Settings, tables: Tables, table: str, text: str) -> dict[str, Any]:
    """The version that ``text`` means: an id or its beginning, ``vN`` (as model version N saw it), an ISO time (the
    newest committed by then), or nothing for the newest.

    Raises NotFound when there is none, ConfigError when it may be any of several.
    """
    items = tables.snapshots(table)
    if not text:
        return items[-1]
    if text.startswith("v") and text[1:].isdigit():
        seen = tables.tags(table).get(f"{settings.use_case.name}-{text}")
        found = [item for item in items if item["snapshot_id"] == seen]
    else:
        found = [item for item in items if str(item["snapshot_id"]).startswith(text)] or _committed_by(items, text)
    if len(found) > 1:
        raise ConfigError(f"Version {text!r} of {table} may be any of {len(found)}: give more digits.")
    if not found:
        raise NotFound(
            f"{table} has no version {text!r}: expected a snapshot id of `raysaas data log`, v1 (as model version 1 "
            f"saw it) or an ISO time from {items[0]['committed_at']:%Y-%m-%dT%H:%M:%S} on."
        )
    return found[0]


def _committed_by(items: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return []
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return [item for item in items if item["committed_at"] <= moment][-1:]
