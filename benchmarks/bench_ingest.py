"""Ingest against plain pyarrow and DuckDB doing the same checks: ``python benchmarks/bench_ingest.py --rows 1000000``.

Both sides read the same CSV in this run and check the same six rules (type, required, min and max, allowed values,
unique key, time order). Ours commits to Iceberg with a quarantine; the plain side writes one Parquet file per verdict.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import ray

from raysaas.ingest.pipeline import ingest
from raysaas.settings import Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

SOURCE = Source(
    path="rows.csv", entity="user", time="at", unique=["id"], time_order=True,
    columns={
        "id": Column(type=ColumnType.integer, required=True), "user": Column(type=ColumnType.category, required=True),
        "at": Column(type=ColumnType.time), "amount": Column(min=0, max=1000),
        "plan": Column(type=ColumnType.category, values=["free", "pro", "team"]),
    },
)  # fmt: skip
PLAIN = """
    CREATE TABLE typed AS SELECT row_number() OVER () AS pos, TRY_CAST(id AS BIGINT) AS id, "user",
        TRY_CAST("at" AS TIMESTAMP) AS "at", TRY_CAST(amount AS DOUBLE) AS amount, plan FROM rows;
    CREATE TABLE checked AS SELECT *, id IS NULL OR "user" = '' OR "at" IS NULL OR amount IS NULL OR amount < 0
        OR amount > 1000 OR plan NOT IN ('free', 'pro', 'team') OR isinf(amount) AS bad FROM typed;
    CREATE TABLE twice AS SELECT pos FROM (
        SELECT pos, row_number() OVER (PARTITION BY id ORDER BY pos) AS n FROM checked WHERE NOT bad) WHERE n > 1;
    CREATE TABLE late AS SELECT pos FROM (SELECT pos, "at", max("at") OVER (PARTITION BY "user" ORDER BY pos
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS seen
        FROM checked ANTI JOIN twice USING (pos) WHERE NOT bad) WHERE seen > "at";
    CREATE TABLE refused AS SELECT pos FROM checked WHERE bad UNION FROM twice UNION FROM late;
"""


def write_rows(path: Path, num_rows: int) -> None:
    """Write rows of which about 1 % break one rule each."""
    rng = np.random.default_rng(0)
    ids = np.arange(num_rows)
    ids[rng.random(num_rows) < 0.002] = 1
    at = np.datetime64("2025-01-01", "s") + np.arange(num_rows)
    at[rng.random(num_rows) < 0.002] -= np.timedelta64(300, "D")
    amount = np.round(rng.gamma(2, 50, num_rows), 2).astype(str).astype(object)
    amount[rng.random(num_rows) < 0.003] = "much"
    plan = rng.choice(["free", "pro", "team", "gold"], num_rows, p=[0.5, 0.3, 0.197, 0.003])
    user = np.char.add("u", rng.integers(0, max(num_rows // 20, 1), num_rows).astype(str))
    columns = [pa.array(ids), pa.array(user), pa.array(at.astype(str)), pa.array(amount, pa.string()), pa.array(plan)]
    pacsv.write_csv(pa.table(columns, names=["id", "user", "at", "amount", "plan"]), path)


def plain(path: Path, out: Path) -> tuple[int, int]:
    """Read with pyarrow, check with DuckDB, write Parquet; returns rows accepted and refused."""
    names = ["id", "user", "at", "amount", "plan"]
    rows = pacsv.read_csv(path, convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())))
    with duckdb.connect() as db:
        db.register("rows", rows)
        db.execute(PLAIN)
        accepted = db.sql("FROM typed ANTI JOIN refused USING (pos)").to_arrow_table()
        refused = db.sql("FROM typed SEMI JOIN refused USING (pos)").to_arrow_table()
    pq.write_table(accepted, out / "accepted.parquet", compression="zstd")
    pq.write_table(refused, out / "refused.parquet", compression="zstd")
    return accepted.num_rows, refused.num_rows


def ours(folder: Path) -> tuple[int, int]:
    """The platform's own path; returns rows accepted and refused."""
    storage = Storage(home=str(folder / f"var-{time.monotonic_ns()}"))
    case = UseCase(name="bench", sources={"rows": SOURCE}, examples=Examples(source="rows", label="plan"))
    settings = Settings(use_case=case, storage=storage, data_dir=str(folder))
    done = ingest(settings, "rows", Tables(storage), datetime(2030, 1, 1, tzinfo=UTC))
    return done.num_accepted, done.num_quarantined


def timed(call: Callable[[], tuple[int, int]]) -> tuple[float, tuple[int, int]]:
    """Seconds and answer of one call."""
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def main() -> None:
    """Run both sides and print the table; the first run of ours starts Ray's workers and is shown apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    num_rows = parser.parse_known_args()[0].rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.csv", num_rows)
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
        base, told = timed(lambda: plain(folder / "rows.csv", folder))
        cold, _ = timed(lambda: ours(folder))
        warm, answer = timed(lambda: ours(folder))
        ray.shutdown()
        size = (folder / "rows.csv").stat().st_size / 1e6
    assert answer == told, f"the sides disagree: {answer} and {told}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ingest of {num_rows:,} rows ({size:.0f} MB CSV), {answer[0]:,} accepted, {answer[1]:,} refused")
    print(f"{'':28}{'seconds':>9}{'rows/s':>12}{'ratio':>8}")
    for label, seconds in (("plain pyarrow + DuckDB", base), ("raysaas, first run", cold), ("raysaas", warm)):
        print(f"{label:28}{seconds:9.2f}{num_rows / seconds:12,.0f}{seconds / base:8.2f}")
    print(f"(ratio: times the plain side; peak memory of the driver with both sides {peak:.0f} MB)")


if __name__ == "__main__":
    main()
