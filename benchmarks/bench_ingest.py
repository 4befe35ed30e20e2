"""Ingest against DuckDB doing the same checks: ``python benchmarks/bench_ingest.py --rows 1000000 10000000``.

Both sides read the same file in this run and check the same twelve rules: type, finite, required, min, max, allowed
values, pattern, future, a condition between columns, references to another table, a key unique within its tenant, time
order per entity. Both write the accepted rows as zstd Parquet, and the refused ones apart. Ours also commits to
Iceberg, gives each row an id, tenant, entity and times, and keeps why each row was refused. Each side runs in a process
of its own, on all cores; memory is the largest resident set of that process and, on our side, of any Ray worker.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from raysaas.ingest.pipeline import ingest
from raysaas.settings import Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TEXT, ORGS, CHUNK = ColumnType.category, 1000, 1_000_000
SOURCE = Source(
    entity="user", tenant="org", time="at", unique=["id"], time_order=True, references={"org": "orgs.name"},
    columns={
        "id": Column(type=ColumnType.integer, required=True), "org": Column(type=TEXT, required=True),
        "user": Column(type=TEXT, required=True), "at": Column(type=ColumnType.time),
        "amount": Column(min=0, max=1000, required=True), "plan": Column(type=TEXT, values=["free", "pro", "team"]),
        "sku": Column(type=TEXT, pattern="[A-Z]{2}-[0-9]+"),
    },
    rules={"paid": "plan <> 'free' OR amount < 900"},
)  # fmt: skip
READ = {"csv": "read_csv('{path}', all_varchar = true, header = true)", "parquet": "read_parquet('{path}')"}
PLAIN = """
    CREATE TABLE checked AS SELECT *, id IS NULL OR org IS NULL OR "user" IS NULL OR "at" IS NULL OR amount IS NULL
        OR isinf(amount) OR amount < 0 OR amount > 1000 OR plan NOT IN ('free', 'pro', 'team')
        OR NOT regexp_full_match(sku, '[A-Z]{{2}}-[0-9]+') OR "at" > TIMESTAMP '2030-01-02'
        OR NOT (plan <> 'free' OR amount < 900) AS bad
        FROM (SELECT row_number() OVER () AS pos, TRY_CAST(id AS BIGINT) AS id, nullif(org, '') AS org,
            nullif("user", '') AS "user", TRY_CAST("at" AS TIMESTAMP) AS "at", TRY_CAST(amount AS DOUBLE) AS amount,
            plan, sku FROM {read});
    CREATE TABLE nowhere AS SELECT pos FROM checked ANTI JOIN read_parquet('{orgs}') AS o ON (o.name = org)
        WHERE NOT bad;
    CREATE TABLE twice AS SELECT pos FROM (SELECT pos, row_number() OVER (PARTITION BY org, id ORDER BY pos) AS n
        FROM checked ANTI JOIN nowhere USING (pos) WHERE NOT bad) WHERE n > 1;
    CREATE TABLE late AS SELECT pos FROM (SELECT pos, "at", max("at") OVER (PARTITION BY org, "user" ORDER BY pos
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS seen FROM checked
        ANTI JOIN nowhere USING (pos) ANTI JOIN twice USING (pos) WHERE NOT bad) WHERE seen > "at";
    CREATE TABLE refused AS SELECT pos FROM checked WHERE bad UNION ALL FROM nowhere UNION ALL FROM twice
        UNION ALL FROM late;
    COPY (SELECT * EXCLUDE bad FROM checked ANTI JOIN refused USING (pos))
        TO '{out}/accepted.parquet' (COMPRESSION zstd);
    COPY (SELECT * EXCLUDE bad FROM checked SEMI JOIN refused USING (pos))
        TO '{out}/refused.parquet' (COMPRESSION zstd);
"""


def write_rows(folder: Path, num_rows: int) -> None:
    """Write ``rows.csv``, ``rows.parquet`` and ``orgs.parquet``: about 2 % of the rows break one rule each."""
    names = pa.array([f"org{i}" for i in range(ORGS - 1)])
    pq.write_table(pa.table({"name": names}), folder / "orgs.parquet")
    writers: list[pacsv.CSVWriter | pq.ParquetWriter] = []
    for start in range(0, num_rows, CHUNK):
        rows = _chunk(start, min(CHUNK, num_rows - start), num_rows)
        text = rows.set_column(4, "amount", _as_written(rows["amount"]))
        if not writers:
            writers = [
                pacsv.CSVWriter(folder / "rows.csv", text.schema),
                pq.ParquetWriter(folder / "rows.parquet", rows.schema),
            ]  # fmt: skip
        for writer, table in zip(writers, (text, rows), strict=True):
            writer.write_table(table)
    for writer in writers:
        writer.close()


def _chunk(start: int, size: int, num_rows: int) -> pa.Table:
    rng = np.random.default_rng(start)
    ids, at = np.arange(start, start + size), np.datetime64("2025-01-01", "s") + np.arange(start, start + size)
    users = rng.integers(0, max(num_rows // 20, 1), size)
    ids[rng.random(size) < 0.002] = 1
    at[rng.random(size) < 0.002] -= np.timedelta64(300, "D")
    amount = np.round(rng.gamma(2, 50, size), 2)
    amount[rng.random(size) < 0.003] = np.inf
    plan = rng.choice(["free", "pro", "team", "gold"], size, p=[0.5, 0.3, 0.197, 0.003])
    sku = np.char.add(rng.choice(["AB-", "XY-", "QQ-", "zz-"], size, p=[0.4, 0.3, 0.297, 0.003]), ids.astype(str))
    columns = [
        pa.array(ids), pa.array(np.char.add("org", (users % ORGS).astype(str))),
        pa.array(np.char.add("u", users.astype(str))), pa.array(at.astype("datetime64[us]")), pa.array(amount),
        pa.array(plan), pa.array(sku),
    ]  # fmt: skip
    return pa.table(columns, names=["id", "org", "user", "at", "amount", "plan", "sku"])


def _as_written(amount: pa.ChunkedArray) -> pa.Array:
    text = np.asarray(amount.combine_chunks().cast(pa.string()).to_numpy(zero_copy_only=False), object)
    text[np.isinf(amount.to_numpy())] = "much"
    return pa.array(text, pa.string())


def plain(folder: Path, kind: str) -> dict[str, float]:
    """DuckDB reads, checks and writes."""
    paths = {"read": READ[kind].format(path=folder / f"rows.{kind}"), "orgs": folder / "orgs.parquet", "out": folder}
    with _Watch() as watch, duckdb.connect() as db:
        start = time.perf_counter()
        db.execute(PLAIN.format(**paths))
        seconds = time.perf_counter() - start
    rows = [pq.read_metadata(folder / f"{name}.parquet").num_rows for name in ("accepted", "refused")]
    return {"seconds": seconds, "accepted": rows[0], "refused": rows[1], "peak_mb": watch.own_mb}


def ours(folder: Path, kind: str) -> dict[str, float]:
    """The platform's own path, twice: the first run starts Ray's workers."""
    import ray

    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    start = time.perf_counter()
    _ingest(folder, kind)
    first = time.perf_counter() - start
    with _Watch() as watch:
        start = time.perf_counter()
        done = _ingest(folder, kind)
        seconds = time.perf_counter() - start
    ray.shutdown()
    return {"seconds": seconds, "first": first, **done, "peak_mb": watch.own_mb, "worker_mb": watch.worker_mb}


def _ingest(folder: Path, kind: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="var-") as home:
        storage = Storage(home=home)
        orgs = Source(path="orgs.parquet", columns={"name": Column(type=TEXT)})
        rows = replace(SOURCE, path=f"rows.{kind}")
        case = UseCase(
            name="bench", sources={"orgs": orgs, "rows": rows}, examples=Examples(source="rows", label="plan")
        )
        settings = Settings(use_case=case, storage=storage, data_dir=str(folder), home=home)
        tables = Tables(storage)
        ingest(settings, "orgs", tables, NOW)
        done = ingest(settings, "rows", tables, NOW)
    return {"accepted": done.num_accepted, "refused": done.num_quarantined}


class _Watch:
    """The largest resident set of this process, and of any Ray worker, while it is open."""

    def __enter__(self) -> "_Watch":
        self.own_mb, self.worker_mb, self._done = 0.0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.1):
            self.own_mb = max(self.own_mb, psutil.Process().memory_info().rss / 1e6)
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        self.worker_mb = max(self.worker_mb, process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


SIDES: dict[str, Callable[[Path, str], dict[str, float]]] = {"DuckDB": plain, "raysaas": ours}


def measure(side: str, folder: Path, kind: str) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--format", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run both sides on every size and format, and print the table; the first run of ours is shown apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--format", nargs="+", default=["csv", "parquet"], choices=["csv", "parquet"])
    parser.add_argument("--side", choices=list(SIDES))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_known_args()[0]
    if options.side:
        print(json.dumps(SIDES[options.side](options.folder, options.format[0])))
        return
    print(f"{'rows':>12} {'format':8} {'DuckDB s':>9} {'ours s':>8} {'first s':>8} {'ratio':>6} "
          f"{'DuckDB MB':>10} {'driver MB':>10} {'worker MB':>10} {'accepted':>12} {'refused':>9}")  # fmt: skip
    for num_rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            write_rows(Path(name), num_rows)
            for kind in options.format:
                base, mine = (measure(side, Path(name), kind) for side in SIDES)
                counts = [[side[key] for key in ("accepted", "refused")] for side in (base, mine)]
                assert counts[0] == counts[1], f"the sides disagree: {counts}"
                print(f"{num_rows:12,} {kind:8} {base['seconds']:9.2f} {mine['seconds']:8.2f} {mine['first']:8.2f} "
                      f"{base['seconds'] / mine['seconds']:5.2f}x {base['peak_mb']:10,.0f} {mine['peak_mb']:10,.0f} "
                      f"{mine['worker_mb']:10,.0f} {counts[1][0]:12,.0f} {counts[1][1]:9,.0f}", flush=True)  # fmt: skip
    print("(ratio: our speed in terms of DuckDB's; above 1 is faster)")


if __name__ == "__main__":
    main()
