"""Online features against Feast's own stores: ``python benchmarks/bench_online.py --materialize 1000000``.

Reads: the same rows (three views of ten features) in our SQLite file and our Redis hashes, in Feast's SQLite and Redis
stores, one Redis server for both; medians of calls in turns, so that a busy machine slows all sides alike. Ours is read
by ``OnlineStore.read_many``, as a serving replica does, and by Feast's SDK through our plug-in.

Materialisation: one view of six features, ours from Iceberg with the point-in-time join, Feast's from Parquet by DuckDB
into its SQLite store. Feast runs on fewer entities, because it takes minutes: rates are compared.
"""

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", TQDM_DISABLE="1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.repo_config import RepoConfig
from feast.types import Float64, Int64, String

from raysaas.features.build import materialize
from raysaas.features.fingerprint import online_service
from raysaas.features.online import write_all
from raysaas.features.views import latest_rows
from raysaas.settings import Settings, Storage
from raysaas.stores.online import OnlineStore
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase, View

VIEWS = ["usage", "billing", "support"]
NOW = datetime.now(UTC).replace(microsecond=0)
Keys = list[tuple[str, str]]
Sides = dict[str, Callable[[Keys], Any]]
OURS = "raysaas.features.feast_online.PackedOnlineStore"


def rows(num: int, prefix: str, num_floats: int) -> pa.Table:
    """One row per entity: floats, an integer and a category."""
    rng, stamp = np.random.default_rng(0), pa.timestamp("us", "UTC")
    when = pa.array([NOW - timedelta(days=1)] * num, stamp)
    values = {f"{prefix}_sum_amount_{n}d": rng.random(num) for n in range(num_floats)}
    return pa.table({
        "tenant": [f"tenant-{n % 20}" for n in range(num)], "entity": [f"account-{n}" for n in range(num)],
        "event_time": when, "known_at": when, **values, f"{prefix}_count": rng.integers(0, 2**40, num),
        f"{prefix}_plan": rng.choice(["free", "pro", "team"], num),
    })  # fmt: skip


def stock(folder: Path, online: dict[str, Any], tables: dict[str, pa.Table]) -> FeatureStore:
    """A Feast repository over Parquet files with the given online store."""
    folder.mkdir(parents=True)
    config = {"project": "bench", "provider": "local", "registry": str(folder / "registry.db"), "online_store": online,
              "offline_store": {"type": "duckdb"}, "entity_key_serialization_version": 3}  # fmt: skip
    store = FeatureStore(config=RepoConfig(repo_path=folder, **config))
    keys = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in ("tenant", "entity")]
    kinds = {pa.float64(): Float64, pa.int64(): Int64, pa.string(): String}
    views = []
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
        source = FileSource(path=str(folder / f"{name}.parquet"), timestamp_field="event_time", name=f"{name}_rows")
        fields = [Field(name=f.name, dtype=kinds[f.type]) for f in table.schema if f.type in kinds]
        views.append(FeatureView(name=name, entities=keys, schema=fields, source=source, ttl=timedelta(days=30)))
    with redirect_stdout(None):
        store.apply([*keys, *views])
    return store


def medians(sides: Sides, keys: Callable[[], Keys], calls: int) -> dict[str, float]:
    """Median milliseconds of a read of ``keys()`` by each side, in turns of ten calls."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(calls // 10):
        for name, call in sides.items():
            for asked in [keys() for _ in range(10)]:
                started = time.perf_counter()
                call(asked)
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(found[len(found) // 10 :]) for name, found in times.items()}


def readers(folder: Path, redis_url: str | None, num: int) -> Sides:
    """Fill every store with the same rows; a function per side that reads the given keys."""
    tables = {name: rows(num, name, 8) for name in VIEWS}
    features = [f"{name}:{column}" for name, table in tables.items() for column in table.column_names[4:]]
    urls = {"SQLite": f"sqlite:///{folder}/ours.db"} | ({"Redis": f"{redis_url}/0"} if redis_url else {})
    feast: dict[str, dict[str, Any]] = {"SQLite": {"type": "sqlite", "path": str(folder / "feast.db")}}
    if redis_url:
        feast["Redis"] = {"type": "redis", "connection_string": f"{redis_url.removeprefix('redis://')},db=1"}
    sides: Sides = {}

    def sdk(store: FeatureStore) -> Callable[[Keys], Any]:
        return lambda keys: store.get_online_features(features, [{"tenant": t, "entity": e} for t, e in keys])

    ttls = dict.fromkeys(VIEWS, 30 * 86400.0)
    for kind, url in urls.items():
        ours = OnlineStore(url)
        for name, table in tables.items():
            ours.write(name, table)
        sides[f"raysaas {kind}"] = lambda keys, ours=ours: ours.read_many(VIEWS, keys, ttls_s=ttls)
        sides[f"raysaas {kind}, Feast's SDK"] = sdk(stock(folder / f"sdk-{kind}", {"type": OURS, "url": url}, tables))
        theirs = stock(folder / f"feast-{kind}", feast[kind], tables)
        for name, table in tables.items():
            theirs.write_to_online_store(name, df=table.to_pandas())
        sides[f"Feast {kind}"] = sdk(theirs)
    _check_equal(sides, features)
    return sides


def _check_equal(sides: Sides, features: list[str]) -> None:
    keys = [(f"tenant-{n % 20}", f"account-{n}") for n in (0, 7, 42)]
    answers = {name: read(keys) for name, read in sides.items()}
    names = [feature.partition(":")[2] for feature in features]
    expected = [[row[name] for name in names] for row in answers["raysaas SQLite"]]
    for side, answer in answers.items():
        table = answer if isinstance(answer, list) else answer.to_df().to_dict("records")
        assert [[row[name] for name in names] for row in table] == expected, f"{side} answers differently"


def bench_reads(folder: Path, redis_url: str | None, num: int, calls: int) -> None:
    """Print milliseconds of each side, and how many times faster our reader is than Feast's on the same engine."""
    sides, rng = readers(folder, redis_url, num), np.random.default_rng(1)
    for size in (1, 50):

        def keys(size: int = size) -> list[tuple[str, str]]:
            return [(f"tenant-{n % 20}", f"account-{n}") for n in rng.integers(0, num, size)]

        found = medians(sides, keys, calls)
        print(f"\nread {size} {'entity' if size == 1 else 'entities'} x 3 views x 10 features, of {num:,} entities")
        print(f"{'':32}{'ms':>9}{'x Feast':>9}")
        for name, ms in found.items():
            kind = "Redis" if "Redis" in name else "SQLite"
            print(f"{name:32}{ms:9.3f}{found[f'Feast {kind}'] / ms:9.1f}")


def bench_materialize(folder: Path, num: int, num_feast: int) -> None:
    """Print seconds and rates: our whole job, its online part alone, Feast's materialize."""
    table = rows(num, "profile", 4)
    names = table.column_names[4:]
    columns = {name: Column(type=ColumnType.category if name.endswith("plan") else ColumnType.number) for name in names}
    case = UseCase(
        name="bench", sources={"log": Source(entity="id", tenant="of", time="at", columns=columns)},
        examples=Examples(source="log", label=names[0]), views={"profile": View(source="log", columns=names)},
    )  # fmt: skip
    settings = Settings(use_case=case, storage=Storage(home=str(folder / "var")))
    tables = Tables(settings.storage)
    tables.append("raw.bench__log", table.add_column(0, "row_id", [[f"r{n}" for n in range(num)]]))
    started = time.perf_counter()
    assert materialize(settings, tables, NOW) == num
    job = time.perf_counter() - started
    started = time.perf_counter()
    found = tables.read("features.bench__profile")
    service = online_service(case, {"profile": found.select(names).schema})
    latest = latest_rows(found, table.select(["tenant", "entity"]), NOW)
    write_all(
        Settings(use_case=case, storage=Storage(home=str(folder / "var2"))), service, [("bench__profile", latest)]
    )
    part = time.perf_counter() - started
    theirs = stock(folder / "feast", {"type": "sqlite", "path": str(folder / "feast.db")},
                   {"profile": table.slice(0, num_feast)})  # fmt: skip
    started = time.perf_counter()
    with redirect_stdout(None):
        theirs.materialize(NOW - timedelta(days=2), NOW)
    feast = time.perf_counter() - started
    print(f"\nmaterialise one view of {len(names)} features into SQLite")
    print(f"{'':44}{'entities':>10}{'seconds':>9}{'per s':>10}{'x Feast':>9}")
    base = num_feast / feast
    for label, size, seconds in (
        ("raysaas, read Iceberg, join, write, switch", num, part),
        ("raysaas, the whole job from raw rows", num, job),
        ("Feast materialize (DuckDB to SQLite)", num_feast, feast),
    ):
        print(f"{label:44}{size:10,}{seconds:9.2f}{size / seconds:10,.0f}{size / seconds / base:9.1f}")


@contextmanager
def redis_server() -> Iterator[str | None]:
    """A private Redis server without persistence, or None when the program is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("redis-server is not installed: the Redis sides are left out")
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(10)


def main() -> None:
    """Run both questions and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entities", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--materialize", type=int, default=1_000_000)
    parser.add_argument("--feast-materialize", type=int, default=50_000)
    known = parser.parse_known_args()[0]
    with tempfile.TemporaryDirectory() as name, redis_server() as redis_url:
        bench_reads(Path(name) / "reads", redis_url, known.entities, known.calls)
        bench_materialize(Path(name) / "materialize", known.materialize, known.feast_materialize)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
