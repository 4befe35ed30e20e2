"""Freshness: from an event at the door to a changed online feature, through the real service and the watching job."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from raysaas import entry
from raysaas.features.online import online_store
from raysaas.stores.generations import current, reading

CONF = """
name: fresh_shop
title: Who orders again
sources:
  orders: {path: orders.csv, tenant: shop, entity: customer, time: at, events: true, columns: {
    customer: {type: text, required: true}, shop: {type: text, required: true}, at: {type: time, required: true},
    amount: {min: 0}}}
views:
  spend: {source: orders, windows_days: [7, 28], aggregates: [count, since_last, "sum:amount"]}
examples: {kind: cuts, source: orders, label_source: orders, every_days: 10, horizon_days: 10, feedback: false}
"""
FRESH_S = 5.0


@pytest.fixture
def shop(tmp_path: Path, platform: SimpleNamespace, raysaas: Callable) -> Iterator[SimpleNamespace]:
    """A small use case, trained and served, with a job that watches its events."""
    (tmp_path / "conf/use_case").mkdir(parents=True)
    (tmp_path / "conf/use_case/fresh_shop.yaml").write_text(CONF)
    rng, start = np.random.default_rng(0), datetime(2025, 1, 1, tzinfo=UTC)
    orders = ["customer,shop,at,amount"]
    for customer in range(150):
        for day in np.cumsum(rng.exponential(2 + 30 * (customer % 2), 60)):
            if day < 120:
                orders.append(f"c{customer},acme,{(start + timedelta(days=day)).isoformat()},{rng.uniform(1, 9):.2f}")
    (tmp_path / "orders.csv").write_text("\n".join(orders))
    own = [f"data_dir={tmp_path}", "use_case=fresh_shop"]
    done = raysaas("run", "pipeline", *own, "model.families=[linear]")
    assert done.returncode == 0, done.stderr[-2000:]
    made = raysaas("key", "create", "--tenant", "acme", "--json", *own)
    key = json.loads(made.stdout)["key"]
    command = [str(Path(sys.executable).parent / "raysaas"), "run", "ingest", *own, "ingest.every_s=0.5"]
    env = {**os.environ, "RAYSAAS_HOME": str(platform.home)}
    job = subprocess.Popen(
        [*command, "features.on_arrival=true"], cwd=tmp_path, env=env, stderr=(tmp_path / "job.log").open("w")
    )
    before = Path.cwd()
    os.chdir(tmp_path)
    settings = entry.compose([*platform.overrides, *own])
    os.chdir(before)
    with httpx.Client(base_url=platform.head.url, headers={"authorization": f"Bearer {key}"}) as client:
        yield SimpleNamespace(settings=settings, client=client, job=job, log=tmp_path / "job.log")
    job.kill()


def order(shop: SimpleNamespace, customer: str, amount: float) -> float:
    """Post an order; returns the seconds until the customer's online sum holds it."""
    store, started = online_store(shop.settings), time.monotonic()
    event = {"customer": customer, "shop": "acme", "at": datetime.now(UTC).isoformat(), "amount": amount}
    reply = shop.client.post("/fresh_shop/events/orders", json={"events": [event]})
    assert (reply.status_code, reply.json()) == (202, {"accepted": 1})
    while time.monotonic() - started < 60:
        views = reading(store, "fresh_shop", current(store, "fresh_shop"))
        (row,) = store.read_many(list(views or ()), [("acme", customer)])
        if row and row["sum_amount_7d"] == amount:
            return time.monotonic() - started
        assert shop.job.poll() is None, shop.log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"the order is not online after a minute:\n{shop.log.read_text()}")


def test_an_event_is_online_in_seconds(shop: SimpleNamespace) -> None:
    order(shop, "c0", 1.0)  # the job has come up
    took = [order(shop, f"c{number}", 100.0 + number) for number in range(1, 4)]
    assert max(took) < FRESH_S, took
    reply = shop.client.post("/fresh_shop/predict", json={"entities": ["c1"]})
    assert reply.status_code == 200
    shop.job.send_signal(signal.SIGTERM)
    assert shop.job.wait(30) == 143
