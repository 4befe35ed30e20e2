"""Rules across rows, settled over all staged parts: the driver reads only keys and times, part by part.

Parts that hold a row to take out are written again without it; the row goes to quarantine. The result does not depend
on how the files were cut into parts.
"""

from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysaas.ingest.across import broken, without
from raysaas.ingest.staging import Batch, Broken, Sink, Staged, tally
from raysaas.stores.tables import Tables

_PART_BITS = 40


def settle(batch: Batch, staged: list[Staged], tables: Tables, raw: str) -> list[Staged]:
    """Apply ``unique`` and ``time_order`` to the staged rows, and ``unique`` against what table ``raw`` holds."""
    if not (batch.source.unique or batch.source.time_order):
        return staged
    found = _find(batch, staged, tables, raw)
    if not found.num_rows:
        return staged
    part_of = pc.shift_right(found["pos"], _PART_BITS).to_numpy()
    return [_rewrite(batch, s, _within(found, part_of == s.part)) for s in staged]


def _find(batch: Batch, staged: list[Staged], tables: Tables, raw: str) -> pa.Table:
    source = batch.source
    columns = list(dict.fromkeys(["tenant", "entity", "event_time", *source.unique]))
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        for number, s in enumerate(s for s in staged if s.num_accepted):
            rows = _read(batch.accepted_path(s.part), columns)
            pos = np.arange(rows.num_rows, dtype=np.int64) + (s.part << _PART_BITS)
            db.register("part", rows.append_column("pos", pa.array(pos)))
            db.execute("CREATE TABLE rows AS FROM part" if number == 0 else "INSERT INTO rows FROM part")
        if not any(s.num_accepted for s in staged):
            return pa.table({"pos": pa.array([], pa.int64())})
        existing = None
        if source.unique and tables.current(raw) is not None:
            scan = tables.table(raw).scan(selected_fields=tuple(source.unique))
            db.register("existing", scan.to_arrow_batch_reader())
            existing = "existing"
        return broken(db, source, existing)


def _within(found: pa.Table, where: np.ndarray) -> pa.Table:
    mine = found.filter(pa.array(where))
    local = pc.bit_wise_and(mine["pos"], (1 << _PART_BITS) - 1)
    return mine.set_column(mine.column_names.index("pos"), "pos", local)


def _rewrite(batch: Batch, staged: Staged, found: pa.Table) -> Staged:
    if not found.num_rows:
        return staged
    file, path = batch.parts[staged.part].file, batch.accepted_path(staged.part)
    kept, out = without(_read(path), found, {file.digest[:16]: file.uri}, batch.now)
    fs, plain = pafs.FileSystem.from_uri(path)
    fs.delete_file(plain)
    for uri, rows in ((path, kept), (batch.refused_path(staged.part, late=True), out)):
        sink = Sink(uri, rows.schema)
        sink.write(rows)
        sink.close()
    counts: dict[tuple[str, str], list[Any]] = {}
    tally(out, counts)
    added = tuple(Broken(*key, *row) for key, row in counts.items())
    return replace(
        staged, num_accepted=kept.num_rows, num_refused=staged.num_refused + out.num_rows, num_late=out.num_rows,
        broken=staged.broken + added,
    )  # fmt: skip


def _read(uri: str, columns: list[str] | None = None) -> pa.Table:
    fs, path = pafs.FileSystem.from_uri(uri)
    return pq.read_table(path, columns=columns, filesystem=fs)
