"""Training on a real Ray: data-parallel fits, a killed worker, streaming, distributed trees, a sweep."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightgbm
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score
from tests.training.tables import settings, training_set

from raysaas.models import bundle
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas.training import boosting, runs, sweep, trainer, trees
from raysaas.training.arrays import columns, part
from raysaas.training.evaluate import Candidate

pytestmark = pytest.mark.usefixtures("ray_cluster")
EPOCHS = 60  # with a checkpoint each: seconds, in which a worker can be killed


@dataclass(frozen=True)
class Fitted:
    """Every family on one training set, and where the runs were."""

    table: pa.Table
    settings: Settings
    home: Path
    candidates: list[Candidate]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    home = tmp_path_factory.mktemp("fitted")
    table, chosen = training_set(1500, Task.regression), settings(str(home), Task.regression)
    return Fitted(table, chosen, home, trainer.fit(chosen, table, home / "out"))


def test_every_family_learns_and_shares_one_baseline(fitted: Fitted) -> None:
    linear, network, grown = fitted.candidates
    assert (linear.family, network.family, grown.family) == (Family.linear, Family.network, Family.trees)
    assert network.baseline == grown.baseline
    assert network.num_rows == fitted.table.num_rows
    for made in (linear, network, grown):
        bundle.load(made.path, made.digest)
        assert made.metrics["r2"] > 0.9, made
    assert list((fitted.home / "ray_results").iterdir()) == [], "finished runs leave nothing behind"


def test_equal_seeds_give_equal_bundles(fitted: Fitted, tmp_path: Path) -> None:
    again = trainer.fit_network(fitted.settings, fitted.table, tmp_path / "again")
    assert again.digest == fitted.candidates[1].digest


def test_killed_worker_resumes_from_its_checkpoint(platform: SimpleNamespace, tmp_path: Path) -> None:
    # A kill may come before the controller knows the first checkpoint: then beginning again is right, and we try again.
    for attempt in range(3):
        made, killed = _killed_fit(platform.head.dashboard_url, tmp_path / str(attempt))
        meta = bundle.load(made.path).manifest["meta"]
        if killed and max(meta["starts"]) > 0:
            break
    assert killed, "the fit was over before a worker could be killed"
    assert max(meta["starts"]) > 0, "the second start must go on, not begin again"
    assert meta["epochs"] == EPOCHS == len(meta["losses"])
    assert made.metrics["auc"] > 0.9


def _killed_fit(url: str, folder: Path) -> tuple[Any, list[int]]:
    killed: list[int] = []
    stopped = threading.Event()
    killer = threading.Thread(target=_kill_after_checkpoint, args=(url, folder / "ray_results", killed, stopped))
    killer.start()
    try:
        plan = {"epochs": EPOCHS, "patience": EPOCHS, "checkpoint_s": 0.0}
        return trainer.fit_network(settings(str(folder)), training_set(3000), folder / "out", **plan), killed
    finally:
        stopped.set()
        killer.join()


def test_rows_beyond_memory_are_streamed(tmp_path: Path) -> None:
    chosen = settings(str(tmp_path), Task.multiclass)
    chosen.train.max_rows_in_memory = 100
    made = trainer.fit_network(chosen, training_set(2000, Task.multiclass), tmp_path / "out", epochs=6)
    assert made.metrics["accuracy"] > 0.8


def test_trees_of_two_workers_equal_those_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = training_set(6000)
    chosen = settings(str(tmp_path))
    chosen.model.num_trees = 100
    known, rows, test = runs.prepare(chosen, table), part(table, "train", "valid"), part(table, "test")
    _, alone = boosting.grow(trees.plan_of(chosen, known, rows), rows)
    scores = lightgbm.Booster(model_str=alone).predict(known.encoder.matrix(columns(test)))
    monkeypatch.setattr(trees, "DISTRIBUTED_ROWS", 1000)
    together = trees.fit_trees(chosen, table, tmp_path / "together", material=known)
    assert bundle.load(together.path).manifest["meta"]["num_workers"] == 2
    expected = roc_auc_score(known.target.encode(test), scores)
    assert together.metrics["auc"] == pytest.approx(expected, abs=0.01)


def test_sweep_returns_the_best_trial_and_a_row_for_each(tmp_path: Path) -> None:
    chosen: Settings = settings(str(tmp_path))
    chosen.tune.num_samples, chosen.tune.max_epochs = 3, 4
    made, rows = sweep.sweep(chosen, training_set(1500), tmp_path / "out")
    assert len(rows) == 3
    assert all(not row["error"] for row in rows)
    best = min(rows, key=lambda row: row["best_loss"])
    weights = bundle.load(made.path, made.digest).weights()
    sizes = [len(bias) for name, bias in sorted(weights.items()) if name.endswith("bias")]
    assert tuple(sizes[:-1]) == sweep.HIDDEN[best["hidden"]]
    assert made.metrics["auc"] > 0.85


def _kill_after_checkpoint(dashboard_url: str, results: Path, killed: list[int], stopped: threading.Event) -> None:
    from ray.util.state import list_actors

    seen: set[str] = set()
    while not stopped.is_set() and not killed:
        time.sleep(0.1)
        # The newest folder may still be in the making: with three or more epochs behind it, one before it is whole.
        if len({folder.name for folder in results.glob("*/checkpoint_*")} | seen) < 3:
            seen |= {folder.name for folder in results.glob("*/checkpoint_*")}
            continue
        wanted = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
        actors: list[Any] = list_actors(dashboard_url, filters=wanted)
        if actors:
            os.kill(actors[0].pid, signal.SIGKILL)
            killed.append(actors[0].pid)
