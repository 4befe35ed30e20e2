"""Where rows come from, through the whole ingest: a real PostgreSQL, a watched folder, a real S3 server."""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from sqlalchemy import create_engine, text

from raysaas.datasets import contracts
from raysaas.errors import ConfigError, InputError
from raysaas.ingest.compacting import ROUNDS
from raysaas.ingest.pipeline import ingest
from raysaas.ingest.watching import compact_when_due, watch
from raysaas.settings import Ingest, Settings, Storage
from raysaas.stores.logs import as_table
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, Sql, UseCase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = {"id": Column(type=ColumnType.integer), "amount": Column(min=0)}
RAW, QUARANTINE = "raw.shop__orders", "quarantine.shop__orders"
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """``run.ingest(source)`` and ``run.settings(source)`` in a private home."""
    storage = Storage(home=str(tmp_path / "var"))
    tables = Tables(storage)

    def settings(source: Source, **changes: float) -> Settings:
        use_case = UseCase(name="shop", sources={"orders": source}, examples=Examples(source="orders", label="x"))
        return Settings(use_case=use_case, storage=storage, ingest=Ingest(**changes), data_dir=str(tmp_path))

    return SimpleNamespace(
        settings=settings, tables=tables, ids=lambda: sorted(tables.read(RAW)["id"].to_pylist()),
        ingest=lambda source, **changes: ingest(settings(source, **changes), "orders", tables, NOW),
    )  # fmt: skip


def test_a_table_of_postgresql_grows_into_its_dataset(run: SimpleNamespace, postgres_url: str) -> None:
    engine = create_engine(postgres_url)

    def execute(*statements: str) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    execute("DROP SCHEMA IF EXISTS g CASCADE", "CREATE SCHEMA g",
            "CREATE TABLE g.orders (id int, amount numeric(8, 2), at timestamptz NOT NULL, note jsonb)")  # fmt: skip
    columns = COLUMNS | {"at": Column(type=ColumnType.time), "note": Column(type=ColumnType.text)}
    sql = Sql(url=postgres_url, table="g.orders", watermark="at", batch_rows=40)
    source = Source(sql=sql, entity="id", time="at", columns=columns)
    nothing = run.ingest(source)
    assert (nothing.snapshot_id, nothing.num_rows, run.tables.exists(RAW)) == (0, 0, False)
    execute("INSERT INTO g.orders SELECT i, i + 0.25, '2025-01-01Z'::timestamptz + i * interval '1 min', '{\"k\": 1}' "
            "FROM generate_series(0, 98) i", "INSERT INTO g.orders VALUES (99, -1, '2025-01-02Z', NULL)")  # fmt: skip
    first = run.ingest(source)
    assert (first.num_read, first.num_accepted, first.num_quarantined, len(first.files)) == (100, 99, 1, 3)
    assert run.ids() == list(range(99))
    assert run.tables.read(RAW).slice(0, 1).to_pylist()[0]["note"] == '{"k": 1}'
    (refused,) = run.tables.read(QUARANTINE).to_pylist()
    assert refused["source_file"].startswith("postgresql://127.0.0.1:")
    assert "table g.orders (, 2025-01-02 00:00:00+00:00] part 3" in refused["source_file"]
    assert (run.ingest(source).snapshot_id, run.tables.count(QUARANTINE)) == (first.snapshot_id, 1)
    execute("INSERT INTO g.orders VALUES (100, 1, '2025-01-02Z', NULL), (101, 1, '2025-01-03Z', NULL)")
    assert run.ingest(source).num_accepted == 2
    assert run.ids() == [*range(99), 100, 101]


def test_a_watched_folder(run: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Finished files go in, one that is being written waits, a bad one is named once and keeps no other back."""
    drop = tmp_path / "drop"
    drop.mkdir()
    taken: list[int] = []
    done = threading.Event()
    settings = run.settings(Source(path="drop", columns=COLUMNS), every_s=0.5)
    job = threading.Thread(
        target=watch, args=(settings, run.tables, lambda _: taken.append(run.tables.count(RAW))),
        kwargs={"stop": done.is_set},
    )  # fmt: skip
    caplog.set_level(logging.WARNING, "raysaas.ingest.watching")
    job.start()
    try:
        time.sleep(1)
        assert not caplog.messages, "an empty folder is no mistake"
        (drop / "bad.csv").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
        (drop / "good.csv").write_text("id,amount\n1,1\n2,1\n")
        (drop / "wrong.csv").write_text("id,amount\n7,-1\n")
        _until(lambda: run.tables.exists(RAW) and run.ids() == [1, 2])
        part = drop / "late.csv.part"
        part.write_text("id,amount\n3,1\n")
        with (drop / "slow.csv").open("w") as slow:
            slow.write("id,amount\n")
            for i in range(10, 14):
                time.sleep(0.3)
                slow.write(f"{i},1\n")
                slow.flush()
        _until(lambda: run.ids() == [1, 2, 10, 11, 12, 13])
        part.rename(drop / "late.csv")
        _until(lambda: run.ids() == [1, 2, 3, 10, 11, 12, 13])
        (drop / "bad.csv").write_text("id,amount\n4,1\n")
        _until(lambda: run.ids() == [1, 2, 3, 4, 10, 11, 12, 13])
    finally:
        done.set()
        job.join()
    assert [message.split(" by its first bytes")[0] for message in caplog.messages if "PNG" in message] == [
        f"orders: {drop}/bad.csv is a PNG image"
    ]
    assert len([message for message in caplog.messages if "1 of 1 rows (100.0%)" in message]) == 1
    assert len(caplog.messages) == 2
    assert taken[-1] == 8


def test_a_watched_source_is_compacted_after_so_many_rounds(
    run: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = run.settings(Source(path="o-*.csv", columns=COLUMNS), keep_hours=0)
    caplog.set_level(logging.INFO, "raysaas.ingest.watching")
    for number in range(8):
        (tmp_path / f"o-{number}.csv").write_text(f"id,amount\n{number},1\n")
        ingest(settings, "orders", run.tables, NOW)
    rounds = Counter({"orders": ROUNDS - 1})
    caplog.clear()  # of what Ray says when it is used first
    compact_when_due(settings, run.tables, rounds, datetime.now(UTC))
    assert not caplog.messages
    rounds.update(["orders"])
    compact_when_due(settings, run.tables, rounds, datetime.now(UTC))
    assert "'merged': 8, 'into': 1" in caplog.messages[0]
    assert not rounds
    assert run.ids() == list(range(8))
    for number in range(8):
        outcome = {"decision_id": f"d{number}", "use_case": "shop", "tenant": "t", "label": "yes"}
        run.tables.append("log.outcomes", as_table([outcome], "outcomes"))
    told = contracts.compact(settings, "orders")
    assert (told[RAW]["merged"], told["log.outcomes"]["merged"], told["log.outcomes"]["into"]) == (0, 8, 1)
    assert run.tables.count("log.outcomes") == 8
    settings.ingest.keep_hours = None
    compact_when_due(settings, run.tables, Counter({"orders": ROUNDS}), datetime.now(UTC))
    assert len(caplog.messages) == 1
    with pytest.raises(ConfigError, match="kept for ever"):
        contracts.compact(settings, "orders")


def _until(holds: Callable[[], bool], timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def s3() -> Iterator[SimpleNamespace]:
    """A real S3 server on a free port; ``s3.uri(path)`` carries a key as users may write it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    options = f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    fs, _ = pafs.FileSystem.from_uri(f"s3://me:topsecret@drop{options}")
    fs.create_dir("drop")
    try:
        yield SimpleNamespace(fs=fs, uri=lambda path: f"s3://me:topsecret@{path}{options}")
    finally:
        server.stop()


def test_objects_of_a_store(run: SimpleNamespace, s3: SimpleNamespace) -> None:
    for number in (1, 2):
        pq.write_table(pa.table({"id": [number], "amount": [1.0]}), f"drop/2026/o-{number}.parquet", filesystem=s3.fs)
    with s3.fs.open_output_stream("drop/2026/o-3.csv") as file:
        file.write(b"id,amount\n3,-1\n4,1\n")
    one = run.ingest(Source(path=s3.uri("drop/2026/o-1.parquet"), columns=COLUMNS))
    assert (one.num_accepted, one.files) == (1, ("s3://drop/2026/o-1.parquet",))
    several = run.ingest(Source(path=s3.uri("drop/*/o-?.*"), columns=COLUMNS), error_budget=0.5)
    assert several.files == ("s3://drop/2026/o-2.parquet", "s3://drop/2026/o-3.csv")
    assert run.ids() == [1, 2, 4]
    assert run.tables.read(QUARANTINE)["source_file"].to_pylist() == ["s3://drop/2026/o-3.csv"]
    properties = str(run.tables.snapshots(RAW)) + str(run.tables.snapshots(QUARANTINE))
    assert "topsecret" not in properties


@pytest.mark.parametrize(
    ("path", "said"),
    [("nowhere/*.csv", "s3://nowhere/.*csv: nothing matches"),
     ("drop/none-*.csv", "s3://drop/none-.*csv: nothing matches"),
     ("drop/none.csv", "s3://drop/none.csv: no such file")],
)  # fmt: skip
def test_what_a_store_does_not_have_is_named_without_the_key(
    run: SimpleNamespace, s3: SimpleNamespace, path: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as told:
        run.ingest(Source(path=s3.uri(path), columns=COLUMNS))
    assert "topsecret" not in str(told.value)
    assert os.linesep not in str(told.value)
