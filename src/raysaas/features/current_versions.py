"""Which of several rows with one key counts: of every version kept in a table, the one that a reader takes. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.use_case import Keep, Source

_FILES = "raysaas.files"


def commit_order(snapshots: Iterable[Mapping[str, Any]]) -> list[str]:
    """First parts of row ids, one per file, in the order in which a table's ``snapshots`` took the files."""
    return [digest[:16] for s in snapshots for digest in json.loads(s["properties"].get(_FILES, "[]"))]


def current_versions(rows: pa.Table, source: Source, files: Sequence[str]) -> pa.Table:
    """Keep of the ``rows`` with equal unique key (and tenant) the one that counts, by ``source.duplicates``.

    ``last`` is the one known last, ``latest`` the one with the greatest value of ``by``; among equals counts the row
    that came last, ``files`` being the order of files (see ``commit_order``). A null among the keys equals nothing.
    Rows of other sources are returned as they are.
    """
    if source.duplicates.key not in (Keep.last, Keep.latest) or not source.unique:
        return rows
    by = [source.duplicates.by] if source.duplicates.by else []
    names = list(dict.fromkeys(["tenant", *source.unique, *by, "known_at", "row_id"]))
    keys = ", ".join(f'"{key}"' for key in ["tenant", *source.unique])
    nulls = " OR ".join(f'"{key}" IS NULL' for key in source.unique)
    newest = "".join(f'"{column}" DESC NULLS LAST, ' for column in [*by, "known_at"])
    with duckdb.connect() as db:
        db.register("rows", rows.select(names).append_column("pos", pa.array(range(rows.num_rows), pa.int64())))
        db.register("files", pa.table({"file": pa.array(files, pa.string()), "n": pa.array(range(len(files)))}))
        kept = db.sql(f"""
            SELECT pos FROM (SELECT *, split_part(row_id, '-', 1) AS file FROM rows) LEFT JOIN files USING (file)
            QUALIFY {nulls} OR row_number() OVER (PARTITION BY {keys}
                ORDER BY {newest} n DESC NULLS LAST, split_part(row_id, '-', 2)::BIGINT DESC) = 1
            ORDER BY pos""").to_arrow_table()["pos"]
    return rows.take(pc.cast(kept, pa.int64()))
