"""The whole ingest step on real Ray Data and a real Iceberg catalog."""

import csv
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray

from raysaas.errors import ConfigError, ContractError, InputError, Unavailable
from raysaas.ingest import planning, turns
from raysaas.ingest.pipeline import ingest
from raysaas.settings import Ingest, Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT, WHOLE, TIME = ColumnType.category, ColumnType.integer, ColumnType.time
ORDERS = Source(
    path="orders*", entity="user", time="at", unique=["id"], time_order=True,
    columns={
        "id": Column(type=WHOLE), "user": Column(type=TEXT, required=True), "at": Column(type=TIME),
        "amount": Column(min=0),
    },
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture
def run(tmp_path: Path) -> SimpleNamespace:
    """``run.ingest(source, **ingest settings)`` in a private home; files lie in ``run.data``."""
    data = tmp_path / "data"
    data.mkdir()
    storage = Storage(home=str(tmp_path / "var"))
    tables = Tables(storage)

    def settings(source: Source, **changes: float) -> Settings:
        use_case = UseCase(name="shop", sources={"orders": source}, examples=Examples(source="orders", label="x"))
        return Settings(use_case=use_case, storage=storage, ingest=Ingest(**changes), data_dir=str(data))

    return SimpleNamespace(
        data=data, tables=tables, raw="raw.shop__orders", quarantine="quarantine.shop__orders", storage=storage,
        ingest=lambda source=ORDERS, **changes: ingest(settings(source, **changes), "orders", tables, NOW),
    )  # fmt: skip


def _orders(path: Path, ids: range, *, bad: dict[int, str] | None = None) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "user", "at", "amount", "note"])
        for i in ids:
            at = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=i)
            writer.writerow([i, f"u{i % 7}", at.isoformat(), (bad or {}).get(i, f"{i}.5"), 'a "quoted"\nnote'])


def test_accepted_rows_are_committed_and_refused_ones_quarantined(run: SimpleNamespace) -> None:
    _orders(run.data / "orders.csv", range(100), bad={3: "-1", 50: "much"})
    done = run.ingest()
    assert (done.num_read, done.num_accepted, done.num_quarantined, done.num_rows) == (100, 98, 2, 98)
    assert done.snapshot_id == run.tables.current(run.raw)
    assert done.warnings == (
        "Columns that the contract does not name were ignored: note.",
        "2 of 100 rows were refused into quarantine.shop__orders: min on amount: 1 (such as row 4 of orders.csv), "
        "type on amount: 1 (such as row 51 of orders.csv).",
    )
    refused = run.tables.read(run.quarantine).sort_by("row_number").to_pylist()
    assert [(r["row_number"], r["rule"], r["column"], r["value"]) for r in refused] == [
        (4, "min", "amount", "-1"), (51, "type", "amount", "much")
    ]  # fmt: skip
    assert set(run.tables.schema(run.raw).names) >= {"tenant", "entity", "event_time", "known_at", "row_id"}


def test_running_again_adds_nothing_and_new_files_add_themselves(run: SimpleNamespace) -> None:
    _orders(run.data / "orders-1.csv", range(50), bad={3: "-1"})
    first = run.ingest()
    again = run.ingest()
    assert (again.snapshot_id, again.num_read, again.num_rows) == (first.snapshot_id, 0, 49)
    _orders(run.data / "orders-2.csv", range(50, 80))
    (run.data / "orders-3.csv").write_bytes((run.data / "orders-2.csv").read_bytes())
    more = run.ingest()
    assert (more.num_read, more.num_rows, len(more.files)) == (30, 79, 1)
    assert "exact copies" in more.warnings[0]
    assert run.tables.count(run.quarantine) == 1


def test_over_the_error_budget_nothing_is_committed(run: SimpleNamespace) -> None:
    _orders(run.data / "orders.csv", range(100), bad=dict.fromkeys(range(0, 40, 2), "-1") | {1: "x"})
    with pytest.raises(ContractError, match=r"21 of 100 rows.*min on amount: 20 \(such as '-1', .*orders.csv row 1\)"):
        run.ingest()
    assert not run.tables.exists(run.raw)
    assert run.tables.count(run.quarantine) == 21
    assert not list(Path(run.storage.home).glob("warehouse/raw/**/*.parquet"))
    assert run.ingest(error_budget=0.5).num_accepted == 79
    assert run.tables.count(run.quarantine) == 21


@pytest.mark.parametrize("part_bytes", [600, 1 << 20])
def test_rules_across_rows_do_not_depend_on_the_cut(
    run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(planning, "_PART_BYTES", (part_bytes, part_bytes))
    random.seed(1)
    rows = [(i if i % 10 else i // 2, f"u{i % 3}", random.randint(0, 9) + i) for i in range(200)]
    lines = [f"{i},{user},{(datetime(2025, 1, 1) + timedelta(hours=hour)).isoformat()},1" for i, user, hour in rows]
    (run.data / "orders.csv").write_text("\n".join(["id,user,at,amount", *lines]))
    seen: set[int] = set()
    latest: dict[str, int] = {}
    expected = {}
    for number, (i, user, hour) in enumerate(rows, 1):
        if i in seen:
            expected[number] = "unique"
            continue
        seen.add(i)
        if hour < latest.get(user, hour):
            expected[number] = "time_order"
        latest[user] = max(hour, latest.get(user, hour))
    done = run.ingest(error_budget=0.9)
    refused = run.tables.read(run.quarantine)
    assert dict(zip(refused["row_number"].to_pylist(), refused["rule"].to_pylist(), strict=True)) == expected
    assert done.num_accepted == 200 - len(expected) == run.tables.count(run.raw)
    (run.data / "orders-later.csv").write_text("id,user,at,amount\n1,z,2025-03-01,1\n900,z,2025-03-01,1\n")
    assert run.ingest(error_budget=0.9).num_accepted == 1, "id 1 is in the table already"


def test_every_format_gives_the_same_rows(run: SimpleNamespace) -> None:
    table = pa.table(
        {"id": [1, 2], "user": ["a", "b"], "at": pa.array([0, 1], pa.timestamp("s")), "amount": [1.5, None]}
    )
    pq.write_table(table, run.data / "orders.parquet")
    (run.data / "orders.jsonl").write_text(
        '{"id": 3, "user": "a", "at": "1970-01-01T00:00:05Z", "amount": 1.5}\n'
        '{"id": 4, "user": "b", "at": 1000000000}\n'
    )
    (run.data / "orders.csv").write_text("id;user;at;amount\n5;a;1970-01-02;1.5\n6;b;1970-01-03;NA\n")
    assert run.ingest(replace(ORDERS, time_order=False)).num_accepted == 6
    assert run.tables.read(run.raw).sort_by("id")["amount"].to_pylist() == [1.5, None] * 3


def test_without_declared_columns_all_are_taken(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_PART_BYTES", (40, 40))
    lines = [f"{i},{'x' if i == 9 else i},true,2025-01-0{i}" for i in range(1, 10)]
    (run.data / "orders.csv").write_text("\n".join(["a b,c,ok,day", *lines]))
    run.ingest(Source(path="orders.csv"))
    kinds = {f.name: str(f.type) for f in run.tables.schema(run.raw)}
    assert [kinds[n] for n in ("a_b", "c", "ok", "day")] == ["double", "string", "bool", "timestamp[us, tz=UTC]"]


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Source(path="nowhere.csv"), InputError, "no such file"),
        (Source(path="orders.csv", entity="usr", columns=ORDERS.columns), ConfigError, "nearest one is 'user'"),
        (
            Source(path="orders.csv", columns={"cost": Column(required=True)}),
            InputError,
            "orders.csv.*no column 'cost'",
        ),
        (
            Source(path="orders.csv", columns={"entity": Column(column="user")}),
            ConfigError,
            "a name the platform makes",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_read(
    run: SimpleNamespace, source: Source, error: type[Exception], message: str
) -> None:
    _orders(run.data / "orders.csv", range(3))
    with pytest.raises(error, match=message):
        run.ingest(source)
    assert not run.tables.exists(run.raw)


def test_a_column_that_changes_its_type_is_a_config_error(run: SimpleNamespace) -> None:
    _orders(run.data / "orders-1.csv", range(3))
    run.ingest()
    _orders(run.data / "orders-2.csv", range(3, 6))
    other = Source(path=ORDERS.path, columns=ORDERS.columns | {"amount": Column(type=TEXT)})
    with pytest.raises(ConfigError, match="'amount' is string now and double in table"):
        run.ingest(other)


def test_killed_in_the_middle_the_table_is_whole_and_the_next_run_completes(run: SimpleNamespace) -> None:
    _orders(run.data / "orders.csv", range(150_000), bad={7: "-1"})
    script = textwrap.dedent(f"""
        import ray
        from datetime import UTC, datetime
        from raysaas.ingest.pipeline import ingest
        from raysaas.settings import *
        from raysaas.stores.tables import Tables
        from raysaas.use_case import *
        ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)
        columns = {{"id": Column(type=ColumnType.integer), "user": Column(type=ColumnType.category, required=True),
                   "at": Column(type=ColumnType.time), "amount": Column(min=0)}}
        source = Source(path="orders*", entity="user", time="at", unique=["id"], time_order=True, columns=columns)
        case = UseCase(name="shop", sources={{"orders": source}}, examples=Examples(source="orders", label="x"))
        settings = Settings(use_case=case, storage=Storage(home={run.storage.home!r}), data_dir={str(run.data)!r})
        ingest(settings, "orders", Tables(settings.storage), datetime(2026, 1, 1, tzinfo=UTC))
    """)
    staged = Path(run.storage.home) / "warehouse" / "raw" / "shop__orders" / "staged"
    with subprocess.Popen([sys.executable, "-c", script], env=dict(os.environ)) as process:
        deadline = time.monotonic() + 120
        while not list(staged.glob("*/*.parquet")):
            assert process.poll() is None, "it ended before it staged anything"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    before = run.tables.count(run.raw) if run.tables.exists(run.raw) else 0
    assert before in (0, 149_999)
    run.ingest()
    assert run.tables.count(run.raw) == 149_999
    assert run.tables.count(run.quarantine) == 1
    assert pc.count_distinct(run.tables.read(run.raw, columns=["row_id"])["row_id"]).as_py() == 149_999
    used = set(run.tables.table(run.raw).inspect.data_files()["file_path"].to_pylist())
    assert len(list(staged.glob("*/*.parquet"))) == len(used)


@pytest.mark.parametrize(
    ("path", "columns", "rows", "nulls"),
    [
        ("telco_churn/Telco-Customer-Churn.csv", {"TotalCharges": Column()}, 7043, {"TotalCharges": 11}),
        ("cdnow/*.csv", {"customer_id": Column(type=TEXT), "date": Column(type=TIME)}, 69_659, {"date": 0}),
        ("beijing_air/stations.parquet", {"pm25": Column(column="PM2.5")}, 420_768, {"pm25": 8739}),
        ("elec2", {}, 45_312, {"nswprice": 0}),
    ],
)
def test_real_files(
    run: SimpleNamespace, data_dir: str, path: str, columns: dict[str, Column], rows: int, nulls: dict[str, int]
) -> None:
    done = run.ingest(Source(path=f"{data_dir}/{path}", columns=columns))
    assert (done.num_read, done.num_accepted, done.num_quarantined) == (rows, rows, 0)
    table = run.tables.read(run.raw, columns=list(nulls))
    assert {name: table[name].null_count for name in nulls} == nulls


def test_one_job_at_a_time_writes_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "TURN_S", 0.5)
    with turns.turn("raw.turns"):
        with pytest.raises(Unavailable, match=r"ingesting into raw\.turns"), turns.turn("raw.turns"):
            pass
        with turns.turn("raw.others"):
            pass
    monkeypatch.setattr(turns, "TURN_S", 30)
    with turns.turn("raw.turns"):
        pass
