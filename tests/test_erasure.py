"""``raysaas data forget`` over real stores: no byte is left, others keep theirs, a killed run is completed."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from tests.leftovers import leftovers

from raysaas.datasets.erasure import NOTHING, forget
from raysaas.datasets.readmission import readmit
from raysaas.entry import saved
from raysaas.errors import ConfigError, InputError, NotFound, Unavailable
from raysaas.records import Family
from raysaas.settings import Settings, Storage
from raysaas.stores.compaction import compact
from raysaas.stores.journal import Journal, events_kind, ship
from raysaas.stores.ledger import Ledger
from raysaas.stores.online import OnlineStore
from raysaas.stores.receipts import digest
from raysaas.stores.registry import Registry
from raysaas.stores.subject import Subject
from raysaas.stores.tables import Tables
from raysaas.stores.tombstones import tombstones
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

TENANT, OTHER = "tenant-that-is-asked-0001", "tenant-that-stays-0002"
WHO, ANOTHER = "entity-that-is-forgotten-0001", "entity-that-stays-0002"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
OWNERS = [(TENANT, WHO), (TENANT, ANOTHER), (OTHER, WHO), (OTHER, ANOTHER)]
SUBJECT = Subject("shop", TENANT, WHO)


def use_case() -> UseCase:
    columns = {"id": Column(type=ColumnType.text), "of": Column(type=ColumnType.text, column="company")}
    source = Source(path="orders-*.csv", entity="id", tenant="of", columns={**columns, "amount": Column()})
    visits = Source(path="none-*.csv", entity="id", tenant="of", columns=columns)
    return UseCase(
        name="shop", sources={"orders": source, "visits": visits}, examples=Examples(source="orders", label="amount"),
    )  # fmt: skip


def rows() -> pa.Table:
    tenants, entities = zip(*OWNERS, strict=True)
    return pa.table(
        {"row_id": [f"r{n}" for n in range(4)], "tenant": tenants, "entity": entities, "amount": [1, 2, 3, 4]}
    )


def refused() -> pa.Table:
    lines = [json.dumps({"id": entity, "company": tenant, "amount": "x"}) for tenant, entity in OWNERS]
    lines += [json.dumps(f"{WHO};{TENANT};broken"), json.dumps(f"{ANOTHER};{TENANT};broken")]
    return pa.table({"rule": ["type"] * 6, "row": lines, "row_id": [f"q{n}" for n in range(6)]})


def decision(number: int, tenant: str, entity: str | None) -> dict[str, Any]:
    return {"id": f"d{number}", "use_case": "shop", "tenant": tenant, "entity": entity, "inputs": {"amount": 1.0},
            "version": 1, "arm": "champion", "score": 0.5, "label": None, "time": NOW.isoformat()}  # fmt: skip


def outcome(number: int, tenant: str) -> dict[str, Any]:
    return {
        "decision_id": f"d{number}",
        "use_case": "shop",
        "tenant": tenant,
        "label": "1",
        "observed_at": NOW.isoformat(),
    }


def write_journal(settings: Settings, tables: Tables) -> None:
    """A shipped, a closed and an abandoned segment of decisions, a shipped one of outcomes, one of events."""
    root = settings.storage.journal or ""
    journal = Journal(root, "shop", "decisions")
    outcomes = Journal(root, "shop", "outcomes")
    for first in (0, 4):
        journal.append([decision(first + n, *owner) for n, owner in enumerate(OWNERS)])
        outcomes.append([outcome(first + n, owner[0]) for n, owner in enumerate(OWNERS)])
        journal.rotate()
        outcomes.rotate()
        if not first:
            for kind in ("outcomes", "decisions"):
                assert ship(root, "shop", kind, tables) == 4
    events = Journal(root, "shop", events_kind("orders"))
    events.append([{"id": entity, "company": tenant, "amount": 1} for tenant, entity in OWNERS])
    events.close()


@pytest.fixture(scope="module")
def registry_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's own empty database, which takes seconds to make."""
    home = tmp_path_factory.mktemp("registry")
    assert Registry(Storage(home=str(home))).versions("shop") == []
    return home / "mlflow.db"


@pytest.fixture
def shop(make_settings: Callable[..., Settings], home: Path, tmp_path: Path, registry_db: Path) -> SimpleNamespace:
    """A use case that holds the subject in every place."""
    home.mkdir()
    shutil.copy(registry_db, home)
    return filled(make_settings("serve.segment_age_s=0.1", f"data_dir={tmp_path}"), home, tmp_path)


def filled(settings: Settings, home: Path, tmp_path: Path) -> SimpleNamespace:
    """The subject in every place that ``settings`` name."""
    settings.use_case = use_case()
    tables, ledger, registry = (
        Tables(settings.storage),
        Ledger(settings.storage.ledger_url or ""),
        Registry(settings.storage),
    )
    raw = tables.append("raw.shop__orders", rows(), {"raysaas.files": '["digest"]'})
    tables.append("raw.shop__visits", rows())
    tables.append("quarantine.shop__orders", refused())
    tables.overwrite("features.shop__row", rows())
    tables.overwrite("features.shop__row", rows())
    training = tables.overwrite("training.shop", rows())
    write_journal(settings, tables)
    online = OnlineStore(settings.storage.online_url or "")
    online.write("shop__row", [(tenant, entity, NOW, {"amount": 1.0}) for tenant, entity in OWNERS])
    online.write("market__row", [(TENANT, ANOTHER, NOW, {"amount": 1.0})])
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    tags = {"training_snapshot": str(training)}
    registry.register(
        "shop", tmp_path / "bundle", digest="a" * 64, family=Family.trees, metrics={}, baseline={}, tags=tags
    )
    tables.tag("raw.shop__orders", raw, "shop-v1")
    ledger.add_key("k1", TENANT, ["predict"])
    ledger.add_key("k2", OTHER, ["predict"])
    page = home / "reports" / "contract" / "shop__orders.html"
    page.parent.mkdir(parents=True)
    page.write_text(f"<td>{WHO}</td>")
    (home / "logs").mkdir()
    (home / "logs" / "site.log").write_text(f"row of {WHO} of {TENANT}\n")
    (tmp_path / "orders-0.csv").write_text(f"id,company,amount\n{WHO},{TENANT},1\n")
    return SimpleNamespace(settings=settings, tables=tables, ledger=ledger, registry=registry, online=online, home=home)


def owners(tables: Tables, name: str, snapshot: int | None = None) -> list[tuple[str, str]]:
    found = tables.read(name, snapshot=snapshot, columns=["tenant", "entity"]).to_pylist()
    return sorted((row["tenant"], row["entity"]) for row in found)


def test_outcomes_that_were_reported_by_key_leave_with_their_decision(shop: SimpleNamespace) -> None:
    root = shop.settings.storage.journal
    decisions, outcomes = Journal(root, "shop", "decisions"), Journal(root, "shop", "outcomes")
    for number, (tenant, entity) in enumerate([(TENANT, WHO), (TENANT, ANOTHER), (OTHER, WHO)], 10):
        key = "order-1" if entity == WHO else "order-2"
        told = {**outcome(number, tenant), "decision_id": None, "key": key}
        decisions.append([decision(number, tenant, entity) | {"key": key}])
        outcomes.append([told])
        outcomes.rotate()
        ship(root, "shop", "outcomes", shop.tables)
        outcomes.append([told])  # repeated, and not shipped
    decisions.close()
    outcomes.close()
    forget(shop.settings, "all", TENANT, WHO)
    ship(root, "shop", "outcomes", shop.tables)
    left = shop.tables.read("log.outcomes", where="key is not null").to_pylist()
    assert sorted((row["tenant"], row["key"]) for row in left) == sorted([(TENANT, "order-2"), (OTHER, "order-1")] * 2)


def test_an_entity_leaves_every_place_and_no_other_does(shop: SimpleNamespace) -> None:
    told = forget(shop.settings, "all", TENANT, WHO)
    others = sorted(OWNERS[1:])
    for name in ("raw.shop__orders", "raw.shop__visits", "features.shop__row", "training.shop"):
        assert owners(shop.tables, name) == others
    assert shop.tables.read("quarantine.shop__orders").num_rows == 4
    assert sorted(shop.tables.read("log.decisions")["id"].to_pylist()) == ["d1", "d2", "d3"]
    assert sorted(shop.tables.read("log.outcomes")["decision_id"].to_pylist()) == ["d1", "d2", "d3"]
    ship(shop.settings.storage.journal, "shop", "decisions", shop.tables)
    assert shop.tables.count("log.decisions") == 6
    assert sorted(shop.online.keys("shop__row")) == others
    assert len(shop.ledger.keys()) == 2, "the tenant is still there"
    assert told["removed"] == {
        "raw.shop__orders": 1, "raw.shop__visits": 1, "quarantine.shop__orders": 2, "features.shop__row": 1,
        "training.shop": 1, "log.outcomes": 1, "log.decisions": 1, "journal": 5, "online": 1, "reports": 1, "logs": 1,
    }  # fmt: skip
    version = shop.registry.version("shop", 1).training_snapshot
    assert owners(shop.tables, "training.shop", version) == others, "drift reports still have their reference"
    assert told["versions"] == [
        {"version": 1, "champion": False, "rows": {"training.shop": 1}, "exact_rebuild": False}
    ]  # fmt: skip
    source, *names = told["remains"]
    assert source == f"the source file {shop.home.parent / 'orders-0.csv'} holds it: it is its owner's to delete"
    assert all(place.endswith("names it, or another tenant's of that name") for place in names)


def test_another_use_case_keeps_its_rows(shop: SimpleNamespace) -> None:
    told = forget(shop.settings, "all", TENANT, ANOTHER)
    assert told["removed"]["online"] == 1
    assert shop.online.keys("market__row") == [(TENANT, ANOTHER)]


def test_no_byte_of_a_tenant_is_left(shop: SimpleNamespace) -> None:
    assert len(leftovers(shop.home, TENANT)) > 10
    shop.online.drop("market__row")
    for number in range(2):  # a file's name, in a version that expires
        shop.tables.append("raw.shop__orders", rows(), {"raysaas.uris": f'[["digest", "{number}/{TENANT}.csv"]]'})
    assert compact(shop.tables, "raw.shop__orders", before=datetime.now(UTC), newest=1).expired
    told = forget(shop.settings, "*", TENANT, None)
    assert leftovers(shop.home, TENANT) == []
    assert [key.tenant for key in shop.ledger.keys()] == [OTHER]  # noqa: SIM118
    assert told["removed"]["api keys"] == 1
    assert leftovers(shop.home, OTHER), "the search would have found it"


def test_a_source_that_was_not_named_is_told_of(shop: SimpleNamespace) -> None:
    told = forget(shop.settings, "orders", TENANT, WHO)
    assert (TENANT, WHO) in owners(shop.tables, "raw.shop__visits")
    assert any("raw.shop__visits holds 1 rows" in place for place in told["remains"])
    assert not tombstones(shop.ledger, "shop", "visits")


def test_the_receipt_names_nobody_and_can_be_checked(shop: SimpleNamespace) -> None:
    told = forget(shop.settings, "all", TENANT, WHO)
    text = Path(told["path"]).read_text()
    assert WHO not in text
    assert TENANT not in text
    receipt = json.loads(text)
    assert receipt["done"]
    assert receipt["subject"] == digest(receipt["salt"], SUBJECT) != digest(receipt["salt"], Subject("shop", TENANT))
    assert {key: told[key] for key in receipt} == receipt


def test_new_rows_are_known_and_others_are_not(shop: SimpleNamespace) -> None:
    forget(shop.settings, "all", TENANT, WHO)
    forget(shop.settings, "orders", "a-whole-tenant", None)
    gone = tombstones(Ledger(shop.settings.storage.ledger_url), "shop", "orders")
    tenants, entities = zip(*OWNERS, ("a-whole-tenant", "any"), ("a-whole-tenant", None), (None, WHO), strict=True)
    mask = gone.mask(pa.array(tenants), pa.array(entities, pa.string()))
    assert mask.to_pylist() == [True, False, False, False, True, True, False]


def test_who_is_readmitted_is_no_longer_known(shop: SimpleNamespace) -> None:
    forget(shop.settings, "all", TENANT, WHO)
    forget(shop.settings, "all", OTHER, None)
    told = readmit(shop.settings, "orders", TENANT, WHO, "came back as a customer")
    receipt = json.loads(Path(told["path"]).read_text())
    assert (receipt["action"], receipt["reason"], receipt["sources"]) == (
        "readmit",
        "came back as a customer",
        ["orders"],
    )
    assert receipt["done"]
    assert receipt["by"]
    assert receipt["finished_at"] >= receipt["started_at"]
    assert receipt["subject"] == digest(receipt["salt"], SUBJECT)
    assert WHO not in str(receipt)
    ledger = Ledger(shop.settings.storage.ledger_url)
    assert not tombstones(ledger, "shop", "orders").holds(TENANT, WHO)
    assert tombstones(ledger, "shop", "visits").holds(TENANT, WHO), "only the source that was named"
    assert tombstones(ledger, "shop", "orders").holds(OTHER, ANOTHER)
    assert owners(shop.tables, "raw.shop__orders") == [(TENANT, ANOTHER)], "what was erased stays gone"
    with pytest.raises(NotFound, match="Nobody of that name is kept out of orders"):
        readmit(shop.settings, "orders", TENANT, WHO, "again")
    with pytest.raises(InputError, match="forgotten as a whole in orders, visits: readmit it without --entity"):
        readmit(shop.settings, "all", OTHER, WHO, "only this one")
    with pytest.raises(InputError, match="without the name"):
        readmit(shop.settings, "all", OTHER, None, f"{OTHER} came back")
    assert len(list((shop.home / "receipts").iterdir())) == 3
    readmit(shop.settings, "all", OTHER, None, "came back")
    assert not tombstones(ledger, "shop", "orders").holds(OTHER, ANOTHER)
    assert forget(shop.settings, "all", TENANT, WHO)["action"] == "forget"
    assert tombstones(ledger, "shop", "orders").holds(TENANT, WHO)


def test_nothing_found_is_said(shop: SimpleNamespace) -> None:
    told = forget(shop.settings, "all", TENANT, "a-name-that-nobody-has")
    assert told["message"] == NOTHING
    assert told["removed"] == {}
    assert Path(told["path"]).exists()
    with pytest.raises(ConfigError, match="did you mean 'orders'"):
        forget(shop.settings, "ordres", TENANT, WHO)


def test_a_journal_that_is_still_written_is_waited_for(shop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Journal(shop.settings.storage.journal, "shop", "decisions")
    writer.append([decision(990000099, TENANT, WHO)])
    shop.settings.serve.segment_age_s = -9.5
    with pytest.raises(Unavailable, match="still being written"):
        forget(shop.settings, "all", TENANT, WHO)
    writer.close()
    told = forget(shop.settings, "all", TENANT, WHO)
    assert leftovers(shop.home, "d990000099") == [], told
    assert told["versions"], "what the first run saw before it stopped is in the receipt of the second"


RUN = """
import sys
from pathlib import Path
from raysaas.datasets.readmission import readmit
from raysaas.entry import saved
from raysaas.datasets.erasure import forget
from tests.test_erasure import TENANT, WHO
forget(saved(Path(sys.argv[1])), "all", TENANT, WHO)
"""


def test_a_run_killed_anywhere_is_completed(shop: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(asdict(shop.settings), default=str))
    assert saved(path) == shop.settings
    for fault in ("forget.purged:raw.shop__orders", "forget.purged:log.outcomes"):
        env = {**os.environ, "RAYSAAS_FAULT": fault}
        done = subprocess.run([sys.executable, "-c", RUN, str(path)], env=env, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL, fault
    told = forget(shop.settings, "all", TENANT, WHO)
    assert owners(shop.tables, "raw.shop__orders") == sorted(OWNERS[1:])
    assert sorted(shop.tables.read("log.outcomes")["decision_id"].to_pylist()) == ["d1", "d2", "d3"]
    assert (told["removed"]["raw.shop__orders"], told["removed"]["training.shop"]) == (1, 1)
    assert [version["version"] for version in told["versions"]] == [1]
    assert len(list((shop.home / "receipts").iterdir())) == 1
