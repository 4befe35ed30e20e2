"""Which of several rows with one key counts: of every version kept in a table, the one that a reader takes. Pure."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.use_case import Keep, Source


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
        db.register("rows", rows.select(names).append_column("__pos", pa.array(range(rows.num_rows), pa.int64())))
        db.register("files", pa.table({"__file": pa.array(files, pa.string()), "__n": pa.array(range(len(files)))}))
        kept = db.sql(f"""
            SELECT __pos FROM (SELECT *, split_part(row_id, '-', 1) AS __file FROM rows) LEFT JOIN files USING (__file)
            QUALIFY {nulls} OR row_number() OVER (PARTITION BY {keys}
                ORDER BY {newest} __n DESC NULLS LAST, split_part(row_id, '-', 2)::BIGINT DESC) = 1
            ORDER BY __pos""").to_arrow_table()["__pos"]
    return rows.take(pc.cast(kept, pa.int64()))
