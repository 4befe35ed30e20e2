"""Ray Tune over the network: Optuna proposes, ASHA stops the hopeless, the best checkpoint is the candidate.

A trial runs ``Fitter`` in its own Tune actor with one worker, not in a nested Ray Train run. Measured side by side
on 2 busy cores, eight epochs on 10,000 rows: four trials like this took 16 s, as their actors are reused; nested, the
first two alone took 37 s (a controller, a cleaner and a worker process each). Data-parallel fits are ``trainer``'s.
"""

import os
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysaas.errors import Unavailable
from raysaas.settings import Settings
from raysaas.training import runs
from raysaas.training.arrays import fit_columns, part
from raysaas.training.evaluate import Candidate
from raysaas.training.fitter import Fitter, Plan, limit_threads
from raysaas.training.trainer import final_state, network_candidate, plan_of

if TYPE_CHECKING:
    from ray.tune import Result

HIDDEN = {"32": (32,), "64-32": (64, 32), "64-64": (64, 64), "128-64": (128, 64), "256-128": (256, 128)}


def sweep(settings: Settings, table: pa.Table, out: Path) -> tuple[Candidate, list[dict[str, Any]]]:
    """Search hidden sizes, dropout, learning rate and weight decay; returns the best network and a row per trial.

    Trials see train and valid rows only; the best is the one with the least valid loss, and its bundle goes to ``out``.
    Raises Unavailable when every trial failed.
    """
    started = time.monotonic()
    material = runs.prepare(settings, table)
    base = replace(plan_of(settings, material), epochs=settings.tune.max_epochs)
    grid = runs.interruptible(_tuner(settings, base, material.table).fit)
    rows = [_row(result) for result in grid]
    if all(row["error"] for row in rows):
        raise Unavailable(f"All {len(rows)} trials of the sweep failed, the first with: {rows[0]['error']}")
    best = grid.get_best_result(metric="best_loss", mode="min")
    plan = plan_with(base, best.config or {})
    made = network_candidate(plan, material, out, final_state(best), started=started)
    runs.discard(grid.experiment_path)
    return made, rows


def plan_with(base: Plan, choice: dict[str, Any]) -> Plan:
    """The plan of one trial: ``hidden`` is a key of ``HIDDEN``, the other choices are fields of ``Plan``."""
    return replace(base, **{**choice, "hidden": HIDDEN[choice["hidden"]]})


def trial(choice: dict[str, Any], base: Plan, train: pa.Table, valid: pa.Table) -> None:
    """Tune's function trainable: one fit that reports its valid loss and a checkpoint after each epoch."""
    import torch
    from ray import tune

    plan = plan_with(base, choice)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    limit_threads(device)
    fitter = Fitter(plan, device=device)
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            fitter.load(Path(folder))
    fitted, measured = plan.tensors(train, device), plan.tensors(valid, device)
    while not fitter.finished:
        fitter.step(lambda: [fitted], lambda: [measured])
        metrics = {"epoch": fitter.epoch, "valid_loss": fitter.losses[-1][1], "best_loss": fitter.best_loss}
        with tempfile.TemporaryDirectory() as folder:
            fitter.save(Path(folder))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def _tuner(settings: Settings, base: Plan, table: pa.Table) -> Any:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    # Tune's tables would go to stdout, which belongs to the caller's JSON.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chosen = settings.tune
    names = fit_columns(table)
    train, valid = part(table, "train").select(names), part(table, "valid").select(names)
    resources = {"CPU": settings.train.cpus_per_worker, **({"GPU": 1} if settings.cluster.use_gpu else {})}
    search = OptunaSearch(metric="valid_loss", mode="min", seed=chosen.seed)
    asha = ASHAScheduler(
        max_t=chosen.max_epochs, grace_period=min(chosen.grace_epochs, chosen.max_epochs), reduction_factor=2
    )
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, base=base, train=train, valid=valid), resources),
        param_space=_space(),
        tune_config=tune.TuneConfig(
            metric="valid_loss", mode="min", search_alg=search, scheduler=asha, num_samples=chosen.num_samples,
            max_concurrent_trials=chosen.max_concurrent, reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{settings.use_case.name}-sweep-{uuid.uuid4().hex[:8]}", verbose=0,
            storage_path=f"{settings.storage.home}/ray_results",
            failure_config=tune.FailureConfig(max_failures=settings.train.max_failures),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
        ),
    )  # fmt: skip


def _space() -> dict[str, Any]:
    from ray import tune

    return {
        "hidden": tune.choice(list(HIDDEN)),
        "dropout": tune.uniform(0.0, 0.4),
        "learning_rate": tune.loguniform(3e-4, 1e-2),
        "weight_decay": tune.loguniform(1e-6, 1e-1),
    }


def _row(result: "Result") -> dict[str, Any]:
    metrics = result.metrics or {}
    seen = {key: metrics.get(key) for key in ("epoch", "valid_loss", "best_loss")}
    return {"trial": metrics.get("trial_id"), **(result.config or {}), **seen, "error": str(result.error or "")}
