"""An entity is forgotten by a running system: nothing of it is left, the others are answered, and it stays away."""

import csv
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from pyiceberg.expressions import EqualTo
from tests.leftovers import leftovers

from raysaas import lifecycle
from raysaas.datasets.erasure import forget
from raysaas.datasets.readmission import readmit
from raysaas.serving.deployment import Deployments
from raysaas.settings import Cluster, Ingest, Model, Serve, Settings, Storage
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables
from raysaas.tenancy.keys import new_key
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase, View

pytestmark = pytest.mark.usefixtures("ray_cluster")

NAME = "erased"
TENANTS = [f"tenant-{n}-of-the-erasure-test" for n in range(2)]
OWNERS = [(TENANTS[n % 2], f"account-{n:04d}-of-the-erasure-test") for n in range(160)]
(TENANT, WHO), (_, ANOTHER) = OWNERS[0], OWNERS[2]
START = datetime(2026, 1, 1, tzinfo=UTC)


def use_case() -> UseCase:
    ids = {name: Column(type=ColumnType.text, required=True) for name in ("account", "tenant")}
    ids["at"] = Column(type=ColumnType.time, required=True)
    accounts = {**ids, "seats": Column(type=ColumnType.integer, min=1), "gone": Column(type=ColumnType.boolean)}
    keys = {"entity": "account", "tenant": "tenant", "time": "at"}
    return UseCase(
        name=NAME,
        sources={
            "accounts": Source(path="accounts-*.csv", columns=accounts, **keys),
            "usage": Source(path="usage-*.csv", columns={**ids, "events": Column(type=ColumnType.integer)}, **keys),
        },
        views={
            "profile": View(source="accounts", columns=["seats"]),
            "activity": View(source="usage", windows_days=[30], aggregates=["count", "sum:events"]),
        },
        examples=Examples(source="accounts", label="gone"),
    )


def write(path: Path, names: str, rows: list[list[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names.split(), *rows])


def write_month(folder: Path, month: int) -> None:
    """Rows of every account; some of them, the first account's too, break the contract."""
    draw, accounts, usage = random.Random(month), [], []
    for number, (tenant, account) in enumerate(OWNERS):
        for day in (1, 11, 21):
            at = START + timedelta(days=30 * month + day, seconds=number)
            seats = 0 if number % 40 == 0 and day == 1 else draw.randint(1, 50)
            gone = draw.random() < (0.8 if seats < 20 else 0.2)
            accounts.append([account, tenant, at.isoformat(), seats, str(gone).lower()])
            usage.append([account, tenant, (at - timedelta(days=1)).isoformat(), draw.randint(0, 9)])
    write(folder / f"accounts-{month}.csv", "account tenant at seats gone", accounts)
    write(folder / f"usage-{month}.csv", "account tenant at events", usage)


@dataclass
class Running:
    """A served use case with a home of its own."""

    settings: Settings
    url: str
    key: str

    def post(self, path: str, **body: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.url}/{path}", json=body, headers=headers, timeout=30)

    def decide(self, *entities: str) -> list[str]:
        answer = self.post("predict", entities=list(entities))
        assert answer.status_code == 200, answer.text
        return [decision["decision_id"] for decision in answer.json()["decisions"]]


@pytest.fixture
def running(platform: SimpleNamespace, tmp_path: Path) -> Iterator[Running]:
    home = tmp_path / "var"
    home.mkdir()
    shutil.copy(platform.home / "head.json", home)
    for month in (0, 1):
        write_month(tmp_path, month)
    settings = Settings(
        use_case=use_case(), storage=Storage(home=str(home)), home=str(home), data_dir=str(tmp_path),
        model=Model(families=["linear"]), ingest=Ingest(error_budget=0.5, num_blocks=2),
        serve=Serve(max_replicas=1, segment_age_s=1.0), cluster=Cluster(port=0, dashboard_port=0),
    )  # fmt: skip
    key, digest = new_key()
    Ledger(settings.storage.ledger_url or "").add_key(digest, TENANT, ["predict", "feedback"])
    told = lifecycle.pipeline(settings)
    assert told["url"], told["reason"]
    yield Running(settings, told["url"], key)
    head = platform.head
    serve = Serve(port=int(head.url.rpartition(":")[2]))
    Deployments(head.dashboard_url, home=home, cluster=settings.cluster, serve=serve).remove(NAME)


def test_an_entity_is_forgotten_while_the_system_runs(running: Running, tmp_path: Path) -> None:
    settings, home, tables = running.settings, tmp_path / "var", Tables(running.settings.storage)
    first = running.decide(WHO, ANOTHER)
    outcomes = [{"decision_id": decision, "label": "true"} for decision in first]
    assert running.post("feedback", outcomes=outcomes).json() == {"accepted": 2}
    lifecycle.ship(settings, wait=True)
    running.decide(WHO, ANOTHER)
    assert len(leftovers(home, WHO)) > 8
    before = tables.count(f"raw.{NAME}__accounts")

    told = forget(settings, "all", TENANT, WHO)

    assert leftovers(home, WHO) == []
    removed = told["removed"]
    assert (removed[f"raw.{NAME}__accounts"], removed[f"quarantine.{NAME}__accounts"]) == (4, 2)
    assert (removed[f"raw.{NAME}__usage"], removed["log.decisions"], removed["log.outcomes"]) == (6, 1, 1)
    assert [version["champion"] for version in told["versions"]] == [True]
    assert len([place for place in told["remains"] if place.startswith("the source file")]) == 4
    assert running.post("predict", entities=[WHO]).status_code == 422
    time.sleep(1.5)
    assert len(running.decide(ANOTHER)) == 1

    # The owner writes a file anew, with the entity still in it: the other rows come, these do not.
    write_month(tmp_path, 2)
    with (tmp_path / "accounts-2.csv").open("a") as file:
        file.write(f"{WHO},{TENANT},a line that is no row\n")
    assert lifecycle.ingest(settings)["rows"]["accepted"] == 2 * 3 * 159 - 3
    assert tables.count(f"raw.{NAME}__accounts") == before - 4 + 3 * 159 - 3
    lifecycle.ship(settings, wait=True)
    lifecycle.materialize(settings)
    again = lifecycle.train(settings)
    assert again["versions"][0]["version"] == 2
    assert lifecycle.watch(settings)["use_case"] == NAME
    running.decide(ANOTHER)
    assert leftovers(home, WHO) == []
    assert forget(settings, "all", TENANT, WHO)["removed"] == {}

    # Back as a customer: what comes from now on is taken, what was erased stays gone.
    readmit(settings, "all", TENANT, WHO, "came back as a customer")
    write_month(tmp_path, 3)
    assert lifecycle.ingest(settings)["rows"]["accepted"] == 2 * 3 * 160 - 4
    months = tables.read(f"raw.{NAME}__usage", where=EqualTo("entity", WHO))["event_time"].to_pylist()
    assert len(months) == 3
    assert min(months) >= START + timedelta(days=90)
