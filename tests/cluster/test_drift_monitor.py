"""The drift actor on a real Ray, killed with -9 in the middle of a window."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.drift.conftest import START, USE_CASE, Shop, make_bundle, rows

from raysaas.drift.monitor import DriftActor
from raysaas.records import OrderState, RetrainOrder
from raysaas.settings import Drift, Storage
from raysaas.stores.lease import Lease
from raysaas.stores.ledger import Ledger


def note(order: RetrainOrder, storage: dict[str, Any]) -> None:
    """The hook that an order is handed on to; runs in a Ray task."""
    with (Path(storage["home"]) / "handed-on").open("a") as file:
        file.write(f"{order.id}\n")


def until(ask: Callable[[], Any], seconds: float = 40) -> Any:
    end = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.2)
    return answer


@pytest.fixture
def start(ray_cluster: Any, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    import ray

    actors = []
    storage = asdict(Storage(home=str(tmp_path)))
    drift = asdict(Drift(window=100, poll_s=0.1))

    def start_one() -> Any:
        path = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        remote = DriftActor.options(num_cpus=0, runtime_env={"env_vars": path})
        actors.append(remote.remote(USE_CASE, storage, drift, "tests.cluster.test_drift_monitor:note"))
        assert ray.get(actors[-1].ping.remote(), timeout=60) == "ok"
        return actors[-1]

    yield start_one
    for actor in actors:
        ray.kill(actor)


def test_killed_monitor_comes_back_with_what_it_knew(start: Callable[[], Any], tmp_path: Path) -> None:
    import ray
    from ray.exceptions import RayActorError

    shop = Shop(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"), [make_bundle(tmp_path / "v1")])
    shop.release(shop.arms[0])
    journal = shop.journal("decisions")
    first = start()
    shop.decide(rows(250, seed=1, shift=15), journal=journal)
    assert until(lambda: len(shop.ledger.drift(USE_CASE)) == 2)
    order = until(lambda: shop.ledger.orders(USE_CASE))[0]
    assert order.evidence["cause"] == ["age", "prediction"] or order.evidence["cause"] == ["prediction", "age"]
    handed_on = tmp_path / "handed-on"
    assert until(handed_on.exists)

    status = ray.get(first.status.remote(), timeout=30)
    assert (status["reports"], status["error"], status["action"]["kind"]) == (2, "", "retrain")
    os.kill(status["pid"], signal.SIGKILL)
    with pytest.raises(RayActorError):
        ray.get(first.ping.remote(), timeout=30)
    shop.decide(rows(149, seed=2, shift=15), journal=journal)

    second = start()
    assert until(lambda: len(shop.ledger.drift(USE_CASE)) == 3)
    shop.decide(rows(1, seed=3, shift=15), journal=journal)
    assert until(lambda: len(shop.ledger.drift(USE_CASE)) == 4)
    status = ray.get(second.status.remote(), timeout=30)
    assert (status["decisions"], status["window"]["filled"], status["active"]) == (400, 0, True)
    windows = ray.get(second.drift.remote(10), timeout=30)
    assert sorted(report["window"] for report in windows) == [1, 2, 3, 4]
    ends = [("d000301", "d000400"), ("d000201", "d000300"), ("d000101", "d000200"), ("d000001", "d000100")]
    assert sorted(tuple(report["decisions"]) for report in windows) == sorted(ends)
    assert handed_on.read_text().split() == [str(order.id)]
    assert shop.ledger.orders(USE_CASE)[0].state is OrderState.open


def test_the_newest_monitor_polls_until_it_stops_beating(tmp_path: Path) -> None:
    from datetime import timedelta

    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    old, new = Lease(ledger, "lease/shop", "old"), Lease(ledger, "lease/shop", "new")
    assert old.held(START)
    assert new.held(START + timedelta(seconds=1))
    assert not old.held(START + timedelta(seconds=2))
    assert new.held(START + timedelta(seconds=20))
    assert not old.held(START + timedelta(seconds=45))
    assert old.held(START + timedelta(seconds=51))
    assert not new.held(START + timedelta(seconds=52))


def test_the_actor_imports_nothing_heavy() -> None:
    heavy = {"feast", "mlflow", "evidently", "pandas", "sklearn", "torch", "onnxruntime", "lightgbm", "ray.data"}
    code = f"import sys, raysaas.drift.monitor as m; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
