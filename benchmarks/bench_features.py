"""Point-in-time joins against DuckDB and Feast: ``python benchmarks/bench_features.py --rows 5000000 --times 10``.

200,000 entities ask three views that hold ``--rows`` rows together. Memory: ours and raw DuckDB ``ASOF LEFT JOIN`` on
the same Arrow tables, in turns, with rows in order of entity and time, as the platform writes them, and shuffled.
Feast: ``get_historical_features`` of the ordered rows through our offline store (Iceberg), Feast's duckdb and Feast's
file store (Parquet). Scale: our offline store over Ray, with the rows and with ``--times`` as many. Build: a training
set and a materialisation from an event log of ``--events`` rows and of ``--times`` as many, each in a process of its
own: its memory and that of a Ray worker. With ``--each`` every view holds ``--rows`` rows.
"""

import argparse
import importlib
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.update(RAY_USAGE_STATS_ENABLED="0", FEAST_USAGE="False", TQDM_DISABLE="1")

import duckdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, String

from raysaas.features.asof import asof_join
from raysaas.features.feast_source import IcebergSource
from raysaas.settings import Features, Storage
from raysaas.stores.tables import Tables

KEYS = ["tenant", "entity"]
VIEWS = {"usage": (0.6, ["sessions", "events"]), "billing": (0.3, ["amount", "failed"]), "support": (0.1, ["severity"])}
STAMP = pa.timestamp("us", "UTC")
CHUNK = 2_000_000
YEAR_US = 365 * 86_400 * 10**6


def rows(num_rows: int, span: tuple[int, int], seed: int, columns: list[str]) -> pa.Table:
    """``tenant``, ``entity`` of a span, ``event_time`` of a year, ``known_at``, random columns; by entity and time."""
    rng = np.random.default_rng(seed)
    who, at = rng.integers(*span, num_rows), rng.integers(0, YEAR_US, num_rows)
    order = np.lexsort((at, who))
    who, at = who[order], at[order]
    text = pc.cast(pa.array(who), pa.string())
    return pa.table({
        "tenant": pc.binary_join_element_wise("t", pc.cast(pa.array(who % 4), pa.string()), ""),
        "entity": pc.binary_join_element_wise("e", text, ""),
        "event_time": pa.array(at).cast(STAMP), "known_at": pa.array(at).cast(STAMP),
        **{name: rng.random(num_rows) for name in columns},
    })  # fmt: skip


def chunks(view: str, num_rows: int, entities: int) -> Iterator[pa.Table]:
    """The rows of a view, at most two million at a time, each of the next entities."""
    share, columns = VIEWS[view]
    num_chunks = -(-round(num_rows * share) // CHUNK)
    bounds = np.linspace(0, entities, num_chunks + 1).astype(int)
    for number, span in enumerate(pairwise(bounds)):
        yield rows(round(num_rows * share) // num_chunks, span, 1000 * len(columns) + number, columns)


def raw(asks: pa.Table, views: dict[str, pa.Table]) -> pa.Table:
    """What one would write by hand."""
    columns = ", ".join(f"{view}.{name}" for view in views for name in VIEWS[view][1])
    joins = " ".join(
        f"ASOF LEFT JOIN {view} ON asks.tenant = {view}.tenant AND asks.entity = {view}.entity "
        f"AND asks.event_time >= {view}.event_time"
        for view in views
    )
    with duckdb.connect() as connection:
        for name, table in {"asks": asks, **views}.items():
            connection.register(name, table)
        return connection.sql(f"SELECT asks.*, {columns} FROM asks {joins}").to_arrow_table()


def ours(asks: pa.Table, views: dict[str, pa.Table]) -> pa.Table:
    """The platform's join, one view after the other."""
    for view, table in views.items():
        asks = asof_join(asks, table, keys=KEYS).select([*asks.column_names, *VIEWS[view][1]])
    return asks


def feast(folder: Path, offline: dict[str, Any], source: Callable[[str], Any]) -> FeatureStore:
    """A Feast repository of the three views."""
    folder.mkdir(parents=True)
    registry = {"registry_type": "file", "path": str(folder / "registry.db")}
    config = RepoConfig(project="bench", provider="local", registry=registry, offline_store=offline, repo_path=folder,
                        online_store={"type": "sqlite", "path": str(folder / "online.db")},
                        entity_key_serialization_version=3)  # fmt: skip
    store = FeatureStore(config=config)
    entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in KEYS]
    views = [
        FeatureView(name=view, entities=entities, ttl=None, source=source(view),
                    schema=[*(Field(name=key, dtype=String) for key in KEYS),
                            *(Field(name=name, dtype=Float64) for name in columns)])
        for view, (_, columns) in VIEWS.items()
    ]  # fmt: skip
    store.apply([*entities, *views])
    return store


def iceberg(folder: Path, num_rows: int, entities: int, partition_rows: int | None = None) -> FeatureStore:
    """Our offline store over tables of that many rows."""
    storage = Storage(home=str(folder / "var"))
    tables = Tables(storage)
    for view in VIEWS:
        for table in chunks(view, num_rows, entities):
            tables.append(f"features.{view}", table)
    offline = {
        "type": "raysaas.features.feast_offline.IcebergOfflineStore", "home": storage.home,
        "catalog_url": storage.catalog_url, "warehouse": storage.warehouse,
        "rows_per_partition": partition_rows or Features().rows_per_partition,
    }  # fmt: skip
    return feast(folder / "repo", offline, lambda view: IcebergSource(name=view, table=f"features.{view}"))


def parquet(folder: Path, kind: str, views: dict[str, pa.Table]) -> FeatureStore:
    """One of Feast's own stores over the same rows as Parquet files."""
    folder.mkdir(parents=True)
    for view, table in views.items():
        pq.write_table(table, folder / f"{view}.parquet")
    return feast(folder / "repo", {"type": kind}, lambda view: FileSource(
        name=view, path=str(folder / f"{view}.parquet"), timestamp_field="event_time"))  # fmt: skip


def retrieve(store: FeatureStore, asks: pa.Table) -> pa.Table:
    """Every feature of every asking row."""
    frame = asks.rename_columns({"event_time": "event_timestamp"}).to_pandas()
    refs = [f"{view}:{name}" for view, (_, columns) in VIEWS.items() for name in columns]
    return store.get_historical_features(frame, refs).to_arrow()


def timed(call: Callable[[], Any], rounds: int = 1) -> tuple[float, Any]:
    """Median seconds and the last answer."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), answer


class Memory:
    """The most private memory, in MB, that any one Ray worker (``peak_mb``) and this process (``own_mb``) held while
    the block ran."""

    def __enter__(self) -> "Memory":
        self.peak_mb, self.own_mb, self._stop = 0.0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            memory = psutil.Process().memory_info()
            self.own_mb = max(self.own_mb, (memory.rss - memory.shared) / 1e6)
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.name().startswith("ray::"):
                        memory = process.memory_info()
                        self.peak_mb = max(self.peak_mb, (memory.rss - memory.shared) / 1e6)
                except psutil.Error:
                    continue


def in_memory(asks: pa.Table, views: dict[str, pa.Table], rounds: int, label: str) -> float:
    """Print and return the seconds of raw DuckDB; asserts that both sides answer alike."""
    ours(asks, views), raw(asks, views)
    pairs = [(timed(lambda: raw(asks, views)), timed(lambda: ours(asks, views))) for _ in range(rounds)]
    (_, theirs), (_, mine) = pairs[-1]
    order = [(name, "ascending") for name in (*KEYS, "event_time")]
    assert mine.sort_by(order).equals(theirs.sort_by(order).cast(mine.schema)), "the sides disagree"
    base, own = (statistics.median(pair[side][0] for pair in pairs) for side in (0, 1))
    print(f"{f'raw DuckDB ASOF, Arrow, {label}':40}{base:9.2f} s{1:8.2f}")
    print(f"{f'raysaas asof_join, Arrow, {label}':40}{own:9.2f} s{own / base:8.2f}")
    return base


def through_feast(folder: Path, asks: pa.Table, views: dict[str, pa.Table], num_rows: int, base: float) -> None:
    """Print the three stores; the ratio is to raw DuckDB on Arrow tables, the last column to ours."""
    mine = iceberg(folder / "iceberg", num_rows, asks.num_rows)
    own, _ = timed(lambda: retrieve(mine, asks), 3)
    print(f"{'Feast, raysaas offline store, Iceberg':40}{own:9.2f} s{own / base:8.2f}")
    for kind in ("duckdb", "file"):
        store = parquet(folder / kind, kind, views)
        seconds, _ = timed(lambda store=store: retrieve(store, asks), 3 if kind == "duckdb" else 1)
        print(f"{f'Feast, {kind} store, Parquet':40}{seconds:9.2f} s{seconds / base:8.2f}{seconds / own:8.1f} x ours")


def scaled(folder: Path, asks: pa.Table, num_rows: int, times: int, partition_rows: int | None) -> None:
    """Print seconds and worker memory of our store over Ray, with the rows and with ``times`` as many."""
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False,
             object_store_memory=1_000_000_000)  # fmt: skip
    first = 0.0
    for factor in (1, times):
        store = iceberg(folder / f"times{factor}", num_rows * factor, asks.num_rows, partition_rows)
        retrieve(store, asks.slice(0, 100))
        with Memory() as memory:
            seconds, _ = timed(lambda store=store: retrieve(store, asks))
        first = first or seconds
        label = f"over Ray, {num_rows * factor:,} rows"
        print(f"{label:40}{seconds:9.2f} s{seconds / first:8.2f}   worker peak {memory.peak_mb:,.0f} MB")
    ray.shutdown()


def log_of_events(tables: Tables, num_rows: int, entities: int) -> None:
    """A raw table in order of time, as ingest leaves it: a million rows a file at most."""
    num_files = -(-num_rows // 1_000_000)
    bounds, rng = np.linspace(0, YEAR_US, num_files + 1).astype(int), np.random.default_rng(0)
    for number, (start, end) in enumerate(pairwise(bounds)):
        size = num_rows // num_files
        at, who = np.sort(rng.integers(start, end, size)), rng.integers(0, entities, size)
        stamps = pa.array(at).cast(STAMP)
        tables.append("raw.bench__events", pa.table({
            "row_id": pc.binary_join_element_wise(f"{number:016d}", pc.cast(np.arange(size), pa.string()), "-"),
            "tenant": pc.binary_join_element_wise("t", pc.cast(pa.array(who % 4), pa.string()), ""),
            "entity": pc.binary_join_element_wise("e", pc.cast(pa.array(who), pa.string()), ""),
            "event_time": stamps, "known_at": stamps, "amount": rng.random(size),
            "kind": pa.array(rng.choice(["view", "buy", "ask"], size)),
        }))  # fmt: skip


def build(num_rows: int, entities: int) -> None:
    """Print what a training set and a materialisation take of a log of that many rows."""
    from raysaas.features.build import materialize, training_set
    from raysaas.settings import Settings
    from raysaas.use_case import Column, ColumnType, ExampleKind, Examples, Source, UseCase
    from raysaas.view import View

    columns = {"amount": Column(), "kind": Column(type=ColumnType.category)}
    views = {
        "sums": View(
            source="events", windows_days=[7, 28], aggregates=["count", "sum:amount", "max:amount", "since_last"]
        ),
        "last": View(source="events", columns=["amount", "kind"]),
    }
    spec = Examples(kind=ExampleKind.cuts, source="events", label_source="events", horizon_days=3, every_days=90)
    case = UseCase(name="bench", sources={"events": Source(entity="id", tenant="of", time="at", columns=columns)},
                   examples=spec, views=views)  # fmt: skip
    now = datetime(1971, 6, 1, tzinfo=UTC)
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(use_case=case, storage=Storage(home=name))
        tables = Tables(settings.storage)
        log_of_events(tables, num_rows, entities)
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False,
                 object_store_memory=1_000_000_000)  # fmt: skip
        # Workers load what the first tasks of a job would wait for.
        ready = ray.remote(num_cpus=0.5)(lambda: (importlib.import_module("raysaas.features.views"), time.sleep(1))[1])
        ray.get([ready.remote() for _ in range(2 * (os.cpu_count() or 1))])
        for what, call in (("training set", lambda: training_set(settings, tables, now=now)[0].num_rows),
                           ("materialise", lambda: materialize(settings, tables, now))):  # fmt: skip
            with Memory() as memory:
                seconds, count = timed(call)
            label = f"{what} of {count:,} from {num_rows:,} events"
            print(f"{label:52}{seconds:9.2f} s   driver {memory.own_mb:,.0f} MB, worker peak {memory.peak_mb:,.0f} MB",
                  flush=True)  # fmt: skip
        ray.shutdown()


def main() -> None:
    """Run all sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--entities", type=int, default=200_000)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--partition-rows", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["memory", "feast", "scale", "build"])
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--each", action="store_true")
    given = parser.parse_known_args()[0]
    if given.only in (None, "build"):
        for factor in (1, given.times):
            process = multiprocessing.get_context("spawn").Process(target=build, args=(given.events * factor, 20_000))
            process.start()
            process.join()
    if given.only == "build":
        return
    if given.each:
        VIEWS.update({view: (1.0, columns) for view, (_, columns) in VIEWS.items()})
    rng, asks = np.random.default_rng(0), rows(given.entities, (0, given.entities), 0, []).drop_columns(["known_at"])
    asks = asks.take(rng.permutation(asks.num_rows))
    held = "each" if given.each else "together"
    print(f"point-in-time join: {given.entities:,} entity rows, 3 views of {given.rows:,} rows {held}")
    with tempfile.TemporaryDirectory() as name:
        if given.only != "scale":
            views = {view: pa.concat_tables(chunks(view, given.rows, given.entities)) for view in VIEWS}
            shuffled = {view: table.take(rng.permutation(table.num_rows)) for view, table in views.items()}
            in_memory(asks, shuffled, given.rounds, "shuffled")
            del shuffled
            base = in_memory(asks, views, given.rounds, "ordered")
            if given.only != "memory":
                through_feast(Path(name), asks, views, given.rows, base)
            del views
        if given.only in (None, "scale") and given.times > 1:
            scaled(Path(name), asks, given.rows, given.times, given.partition_rows)


if __name__ == "__main__":
    main()
