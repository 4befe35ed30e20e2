"""Contracts end to end, on real Ray Data and a real Iceberg catalog: rules, reports, quarantine and its replay."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import ray
import yaml

from raysaas.datasets import contracts
from raysaas.errors import ContractError, InputError, NotFound
from raysaas.features.raw import raw
from raysaas.ingest import planning, settling
from raysaas.ingest.findings import PROPERTY, Findings
from raysaas.ingest.pipeline import ingest
from raysaas.settings import Ingest, Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import Bounds, Column, ColumnType, Duplicates, Examples, Keep, OnBroken, Source, UseCase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT, WHOLE, TIME = (Column(type=kind) for kind in (ColumnType.category, ColumnType.integer, ColumnType.time))
ORDERS = Source(
    path="orders*", entity="user", tenant="org", time="at", unique=["id"], time_order=True,
    columns={
        "id": WHOLE, "org": TEXT, "user": Column(type=ColumnType.category, column="User Id"), "at": TIME,
        "amount": Column(min=0, max=100),
    },
    rules={"cheap": "org <> 'b' OR amount < 50"},
)  # fmt: skip
HEADER = "id,org,User Id,at,amount"
pytestmark = pytest.mark.usefixtures("ray_cluster")


class Shop:
    """A private home with sources; ``data`` is where their files lie."""

    def __init__(self, folder: Path) -> None:
        self.data, self.storage = folder / "data", Storage(home=str(folder / "var"))
        self.data.mkdir()
        self.tables, self.sources = Tables(self.storage), {"orders": ORDERS}

    def settings(self, **changes: float) -> Settings:
        case = UseCase(name="shop", sources=self.sources, examples=Examples(source="orders", label="amount"))
        return Settings(
            use_case=case, storage=self.storage, ingest=Ingest(**{"error_budget": 0.9, **changes}),
            data_dir=str(self.data), home=self.storage.home,
        )  # fmt: skip

    def ingest(self, name: str = "orders", now: datetime = NOW, **changes: float) -> Any:
        return ingest(self.settings(**changes), name, self.tables, now)

    def write(self, name: str, lines: Iterable[str], header: str = HEADER) -> None:
        (self.data / name).write_text("\n".join([header, *lines]) + "\n")

    def raw(self, *columns: str) -> list[tuple[Any, ...]]:
        rows = self.tables.read("raw.shop__orders").sort_by("row_id")
        return list(zip(*(rows[column].to_pylist() for column in columns), strict=True))

    def waiting(self) -> list[tuple[int, str, str]]:
        told = contracts.refused(self.settings(), "orders", 100, None)
        return [(row["row_number"], row["rule"], row["column"]) for row in told["rows"]]

    def found(self) -> Findings:
        return Findings.from_json(self.tables.snapshots("raw.shop__orders")[-1]["properties"][PROPERTY])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


ROWS = [
    "1,a,u1,2025-01-01,10", "2,a,u1,2025-01-02,900", "3,b,u1,2025-01-03,60", "1,a,u2,2025-01-04,1",
    "1,b,u2,2025-01-05,1", "4,a,u1,2025-01-01T12:00,2", "5,a,u1,2025-01-01,3",
]  # fmt: skip
REFUSED = [(2, "max", "amount"), (3, "cheap", ""), (4, "unique", "id"), (7, "time_order", "at")]


@pytest.mark.parametrize("part_bytes", [40, 1 << 20])
@pytest.mark.parametrize("inline_rows", [0, 1000])
def test_every_rule_is_counted_in_the_commit(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, part_bytes: int, inline_rows: int
) -> None:
    monkeypatch.setattr(planning, "_PART_BYTES", (part_bytes, part_bytes))
    monkeypatch.setattr(settling, "_INLINE_ROWS", inline_rows)
    shop.sources["orders"] = replace(ORDERS, on_broken={"amount.max": OnBroken.warn})
    shop.write("orders.csv", ROWS)
    done = shop.ingest()
    late = [(6, "time_order", "at"), (7, "time_order", "at")]
    assert shop.waiting() == [*REFUSED[1:3], *late], "row 2 stays, so that row 6 comes too late"
    found = shop.found()
    told = {(one.rule, one.column): (one.count, one.action, one.row_number) for one in found.rules}
    assert told == {
        ("max", "amount"): (1, "warn", 2), ("cheap", ""): (1, "refuse_row", 3), ("unique", "id"): (1, "refuse_row", 4),
        ("time_order", "at"): (2, "refuse_row", 6),
    }  # fmt: skip
    assert (found.read, found.accepted, found.refused, found.warned) == (7, 3, 4, 1)
    assert found.nulls == {"id": 0, "org": 0, "user": 0, "at": 0, "amount": 0}
    assert found.newest == "2025-01-05T00:00:00+00:00"
    assert any("only warns were kept: max on amount: 1 (such as row 2 of orders.csv)" in one for one in done.warnings)
    staged = Path(shop.storage.home).glob("warehouse/**/staged/*/*")
    assert {path.suffix for path in staged} == {".parquet"}, "files of keys are gone"


def test_references_are_to_what_is_committed(shop: Shop) -> None:
    shop.sources = {
        "orders": replace(ORDERS, references={"user": "people.name"}, time_order=False, rules={}),
        "people": Source(path="people.csv", tenant="org", columns={"name": TEXT, "org": TEXT}),
    }  # fmt: skip
    shop.write("orders.csv", ROWS)
    with pytest.raises(InputError, match=r"references\.user: table raw\.shop__people has no 'name' yet; ingest people"):
        shop.ingest()
    shop.write("people.csv", ["u1,a", "u2,b"], header="name,org")
    shop.ingest("people")
    shop.ingest()
    assert shop.waiting() == [(2, "max", "amount"), (3, "references", "user"), (4, "references", "user")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"on_broken": {"unique": OnBroken.refuse_batch}},
            r"Rule unique on id .* unique on id: 1 \(such as '1', .*row 4",
        ),
        ({"on_broken": {"cheap": OnBroken.refuse_batch}}, r"Rule cheap of source 'orders' refuses the whole batch"),
        ({"bounds": Bounds(min_rows=10)}, r"batch of source 'orders' was refused.*min_rows: 3 rows, under 10"),
        ({"max_age_hours": 24.0}, r"max_age_hours: the newest event is 8,664.0 hours old"),
    ],
)
def test_a_batch_is_refused_as_a_whole(shop: Shop, changes: dict[str, Any], message: str) -> None:
    shop.sources["orders"] = replace(ORDERS, **changes)
    shop.write("orders.csv", ROWS)
    with pytest.raises(ContractError, match=message):
        shop.ingest()
    assert not shop.tables.exists("raw.shop__orders")
    told = contracts.refused(shop.settings(), "orders", 10, None)
    assert (told["waiting"], shop.tables.count("quarantine.shop__orders")) == (0, 4)
    assert "4 more rows belong to batches that were refused as a whole" in told["note"]
    page = Path(shop.storage.home) / "reports/contract/shop__orders.html"
    assert "The newest batch was refused." in page.read_text()
    assert contracts.report(shop.settings(), "orders")["verdict"] == "refused"
    shop.sources["orders"] = ORDERS
    assert shop.ingest().num_accepted == 3
    assert shop.waiting() == REFUSED, "only the rows of the batch that was taken wait"


def test_a_batch_is_held_against_the_one_before(shop: Shop) -> None:
    bounds = Bounds(min_row_ratio=0.5, max_null_increase=0.3)
    shop.sources["orders"] = replace(ORDERS, bounds=bounds)
    shop.write("orders-1.csv", ["1,a,u,2025-01-01,1", "2,a,u,2025-01-02,2", "3,a,u,2025-01-03,3"])
    shop.ingest()
    shop.write("orders-2.csv", ["4,a,u,2025-01-04,1"])
    with pytest.raises(ContractError, match=r"min_row_ratio: 1 rows, 0.33 of the 3 of the last batch, under 0.5"):
        shop.ingest()
    shop.write("orders-2.csv", ["4,a,u,2025-01-04,1", "5,a,u,2025-01-05,"])
    with pytest.raises(ContractError, match=r"max_null_increase: 50.00% of amount is null, 0.00% of the last batch"):
        shop.ingest()
    shop.sources["orders"] = replace(ORDERS, bounds=bounds, on_broken={"amount.max_null_increase": OnBroken.warn})
    assert "max_null_increase: 50.00% of amount is null" in shop.ingest().warnings[-1]


def test_copies_are_dropped_also_those_of_committed_rows(shop: Shop) -> None:
    shop.sources["orders"] = replace(ORDERS, duplicates=Duplicates(exact=Keep.first), time_order=False)
    shop.write("orders-1.csv", [ROWS[0], ROWS[0], "1,a,u1,2025-01-01,11"])
    assert shop.ingest().num_accepted == 1
    assert (shop.found().duplicates, shop.waiting()) == (1, [(3, "unique", "id")])
    shop.write("orders-2.csv", [ROWS[0], "1,a,u1,2025-01-01,12", "9,a,u1,2025-01-01,1"])
    shop.ingest()
    found = shop.found()
    assert (found.read, found.accepted, found.refused, found.duplicates) == (3, 1, 1, 1)
    shop.write("orders-3.csv", [ROWS[0]] * 3)
    assert shop.ingest().num_rows == 2


def test_the_reader_takes_the_last_version_that_was_known(shop: Shop) -> None:
    shop.sources["orders"] = replace(ORDERS, duplicates=Duplicates(key=Keep.last), time_order=False, known_at="at")
    shop.write("orders-1.csv", ["1,a,u1,2025-01-01,1", "2,a,u1,2025-01-01,2", "1,a,u1,2025-01-03,3"])
    shop.ingest()
    shop.write("orders-2.csv", ["1,a,u1,2025-01-03,4", "2,a,u1,2025-01-05,5"])
    assert shop.ingest().num_rows == 5
    for day, amounts in ((2, [1, 2]), (4, [4, 2]), (6, [4, 5])):
        case, then = shop.settings().use_case, datetime(2025, 1, day, tzinfo=UTC)
        pins = {"raw.shop__orders": shop.tables.current("raw.shop__orders")}
        read = raw(case, shop.tables, then, pins).read("orders").sort_by("id")
        assert read["amount"].to_pylist() == amounts


def test_rows_are_repaired_and_replayed_once(shop: Shop, tmp_path: Path) -> None:
    shop.write("orders.csv", [*ROWS, "only,two", "6,a,u9,2025-02-01,x"])
    shop.ingest()
    assert shop.waiting() == [*REFUSED, (8, "columns", ""), (9, "type", "amount")]
    assert contracts.replay(shop.settings(), "orders", None)["accepted"] == 0, "as they were they are refused again"
    out = tmp_path / "fix.csv"
    told = contracts.refused(shop.settings(), "orders", 2, str(out))
    assert (told["waiting"], len(told["rows"])) == (6, 2)
    rows = {row["quarantine_id"].split("-")[1]: row for row in csv.DictReader(out.open())}
    assert rows["2"] | {"User Id": "u1", "amount": "900"} == rows["2"]
    rows["2"]["amount"], rows["4"]["id"], rows["9"]["amount"] = "90", "40", "-1"
    rows["8"] |= {"id": "8", "org": "a", "User Id": "u8", "at": "2025-03-01", "amount": "8"}
    rows["7"]["user"] = "u7"
    _rewrite(out, [rows[number] for number in ("2", "4", "7", "8", "9")])
    done = contracts.replay(shop.settings(), "orders", str(out))
    assert (done["tried"], done["accepted"], done["refused"], done["skipped"]) == (5, 4, 1, 0)
    assert shop.waiting() == [(3, "cheap", ""), (9, "min", "amount")]
    again = contracts.replay(shop.settings(), "orders", str(out))
    assert (again["tried"], again["accepted"], again["skipped"]) == (1, 0, 4)
    numbers = [int(row_id.split("-")[1]) for (row_id,) in shop.raw("row_id")]
    assert sorted(numbers) == [1, 2, 4, 5, 6, 7, 8], "each once, under the id it always had"
    shop.sources["orders"] = replace(ORDERS, rules={})
    assert contracts.replay(shop.settings(), "orders", None)["accepted"] == 1, "the contract was changed for row 3"
    assert shop.ingest().num_read == 0


def _rewrite(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_a_late_row_stays_late_until_it_is_repaired(shop: Shop, tmp_path: Path) -> None:
    shop.write("orders.csv", ROWS)
    shop.ingest()
    done = contracts.replay(shop.settings(), "orders", None)
    assert (done["accepted"], shop.waiting()[-1]) == (0, (7, "time_order", "at"))
    out = tmp_path / "fix.jsonl"
    contracts.refused(shop.settings(), "orders", 0, str(out))
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    late = next(row for row in rows if row["quarantine_why"] == "time_order at")
    out.write_text(json.dumps(late | {"at": "2025-01-01T12:00:00"}))
    assert contracts.replay(shop.settings(), "orders", str(out))["accepted"] == 1


@pytest.mark.parametrize("wrong", ["id", "twice", "unknown"])
def test_a_file_of_repairs_that_fits_nothing_is_told(shop: Shop, tmp_path: Path, wrong: str) -> None:
    with pytest.raises(NotFound, match="no committed rows"):
        contracts.replay(shop.settings(), "orders", None)
    shop.write("orders.csv", ROWS)
    shop.ingest()
    out = tmp_path / "fix.csv"
    contracts.refused(shop.settings(), "orders", 0, str(out))
    rows = list(csv.DictReader(out.open()))
    rows = {
        "id": [{k: v for k, v in row.items() if k != "quarantine_id"} for row in rows], "twice": [rows[0], rows[0]],
        "unknown": [rows[0] | {"quarantine_id": "abc-1"}],
    }[wrong]  # fmt: skip
    _rewrite(out, rows)
    says = {"id": "no column 'quarantine_id'", "twice": "for a second time", "unknown": "'abc-1'"}
    with pytest.raises(InputError, match=says[wrong]):
        contracts.replay(shop.settings(), "orders", str(out))


@pytest.mark.parametrize("step", ["quarantined", "staged", "committed"])
def test_killed_at_any_step_a_replay_takes_each_row_once(shop: Shop, tmp_path: Path, step: str) -> None:
    shop.write("orders.csv", ROWS)
    shop.ingest()
    fix = tmp_path / "fix.csv"
    contracts.refused(shop.settings(), "orders", 0, str(fix))
    rows = list(csv.DictReader(fix.open()))
    rows[0]["amount"], rows[2]["id"], rows[1]["amount"] = "5", "77", "-5"
    _rewrite(fix, rows)
    script = textwrap.dedent(f"""
        import ray, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from raysaas.datasets import contracts
        import test_contracts
        ray.init(address={ray.get_runtime_context().gcs_address!r}, log_to_driver=False)
        shop = test_contracts.Shop.__new__(test_contracts.Shop)
        shop.data, shop.storage = Path({str(shop.data)!r}), test_contracts.Storage(home={shop.storage.home!r})
        shop.sources = {{"orders": test_contracts.ORDERS}}
        contracts.replay(shop.settings(), "orders", {str(fix)!r})
    """)
    env = {**os.environ, "RAYSAAS_FAULT": f"replay.{step}"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    taken = len(shop.raw("id"))
    assert taken == (5 if step == "committed" else 3)
    contracts.replay(shop.settings(), "orders", str(fix))
    assert sorted(i for (i,) in shop.raw("id")) == [1, 1, 2, 4, 77]
    assert shop.waiting() == [(3, "min", "amount"), (7, "time_order", "at")]
    assert shop.tables.count("quarantine.shop__orders") == 5, "the new reason of row 3 is written once"
    staged = {path.parent.name for path in Path(shop.storage.home).glob("warehouse/raw/shop__orders/staged/*/*")}
    assert len([name for name in staged if name.startswith("replay")]) == 1


def test_a_report_says_it_in_words_and_in_json(shop: Shop) -> None:
    shop.write("orders-1.csv", ROWS)
    shop.ingest(now=datetime(2025, 12, 30, tzinfo=UTC))
    shop.write("orders-2.csv", ["90,a,u1,2025-02-01,<b>", "91,a,u1,2025-02-01,"])
    shop.ingest()
    told = contracts.report(shop.settings(), "orders")
    assert (told["verdict"], told["read"], told["accepted"], told["refused"]) == ("accepted with findings", 2, 1, 1)
    facts = json.loads(Path(told["json"]).read_text())
    assert (
        facts["rules"][0] | {"rule": "type", "column": "amount", "count": 1, "share": 0.5, "value": "<b>"}
        == (facts["rules"][0])
    )
    assert {"column": "amount", "nulls": 1, "null_rate": 1.0} in facts["columns"]
    assert [(b["read"], b["refused"]) for b in facts["trend"]] == [(7, 4), (2, 1)]
    page = Path(told["html"]).read_text()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page.replace("<li><b>", "")
    shop.sources["others"] = ORDERS
    with pytest.raises(NotFound, match="was ever checked"):
        contracts.report(shop.settings(), "others")


@pytest.mark.parametrize(
    ("path", "source", "rows"),
    [
        ("telco_churn/Telco-Customer-Churn.csv", Source(entity="customerID"), 7043),
        ("beijing_air/stations.parquet", Source(), 420_768),
    ],
)
def test_an_inferred_contract_holds_for_its_own_file(
    shop: Shop, data_dir: str, path: str, source: Source, rows: int
) -> None:
    shop.sources["orders"] = replace(source, path=f"{data_dir}/{path}")
    if source.entity:
        shop.sources["orders"].columns = {}
        shop.sources["orders"].entity = None
    shop.ingest()
    told = contracts.infer(shop.settings(), "orders")
    contract = yaml.safe_load(told["yaml"])
    columns = {key: Column(**{**spec, "type": ColumnType(spec["type"])}) for key, spec in contract["columns"].items()}
    again = Shop(shop.data)
    again.sources["orders"] = Source(
        path=shop.sources["orders"].path, columns=columns, unique=contract.get("unique", [])
    )
    done = again.ingest(error_budget=0.0)
    assert (done.num_accepted, done.num_quarantined) == (rows, 0)
    if source.entity:
        assert contract["unique"] == ["customerID"]
        assert contract["columns"]["Churn"] == {"type": "category", "required": True, "values": ["No", "Yes"]}
        assert contract["columns"]["TotalCharges"]["max_null_rate"] == 0.01


def test_the_commands(shop: Shop, raysaas: Any, platform: SimpleNamespace, tmp_path: Path) -> None:
    conf = tmp_path / "conf" / "use_case"
    conf.mkdir(parents=True)
    (tmp_path / "rows.csv").write_text("k,x\n1,5\n2,50\n3,6\n")
    (conf / "tiny.yaml").write_text(
        textwrap.dedent(f"""
        name: tiny_contract
        task: regression
        sources: {{rows: {{path: {tmp_path}/rows.csv, columns: {{k: {{type: integer}}, x: {{max: 10}}}}}}}}
        examples: {{source: rows, label: x}}
    """)
    )
    overrides = ["use_case=tiny", *platform.overrides, "ingest.error_budget=0.5"]
    assert raysaas("run", "ingest", "--json", *overrides).returncode == 0
    told = json.loads(raysaas("data", "report", "rows", "--json", *overrides).stdout)
    assert (told["verdict"], told["refused"]) == ("accepted with findings", 1)
    listed = raysaas("data", "quarantine", "list", "rows", "--out", "fix.csv", "--json", *overrides)
    assert json.loads(listed.stdout)["rows"][0]["value"] == "50"
    fixed = tmp_path / "fix.csv"
    fixed.write_text(fixed.read_text().replace('"50"', '"5"'))
    told = json.loads(
        raysaas("data", "quarantine", "replay", "rows", "--fixed", "fix.csv", "--json", *overrides).stdout
    )
    assert (told["accepted"], told["refused"]) == (1, 0)
    assert yaml.safe_load(raysaas("data", "contract", "rows", *overrides).stdout)["columns"]["x"] == {
        "type": "number", "required": True, "min": 5.0, "max": 6.0
    }  # fmt: skip
    assert pa.table({"k": [1, 2, 3]}) == Tables(platform.settings.storage).read(
        "raw.tiny_contract__rows", columns=["k"]
    ).sort_by("k")
