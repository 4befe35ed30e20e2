"""One worker of a tree fit: how many trees, then that many on all rows. Imports only what growing trees takes."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysaas.models.encode import Encoder
from raysaas.records import Task
from raysaas.training.arrays import Target, columns, part, shard

if TYPE_CHECKING:
    import lightgbm

MODEL_FILE = "model.txt"
FOLDS, FOLDS_OF_MANY = 5, 3
# From this many cells on, cross-validation takes fewer folds: hundreds of columns would take a minute.
MANY_CELLS = 400_000
STOPPING_ROUNDS = 50
SOCKET_TIMEOUT_MIN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlan:
    """Everything a worker must know: LightGBM's ``params``, at most ``num_trees``, and how rows become a matrix."""

    encoder: Encoder
    target: Target
    params: dict[str, Any]
    num_trees: int
    cross_validate: bool


def worker(config: dict[str, Any]) -> None:
    """Ray Train's ``train_loop_per_worker``: ``config`` holds a ``TreePlan`` and a reference to the rows."""
    import ray
    import ray.train

    plan: TreePlan = config["plan"]
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    network = _network() if world > 1 else {}
    rounds, text = grow(plan, ray.get(config["rows"]), rank=rank, world=world, network=network)
    if rank:
        ray.train.report({"rounds": rounds})
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILE).write_text(text)
        ray.train.report({"rounds": rounds}, checkpoint=ray.train.Checkpoint.from_directory(folder))


def grow(
    plan: TreePlan, rows: pa.Table, *, rank: int = 0, world: int = 1, network: dict[str, Any] | None = None
) -> tuple[int, str]:
    """Choose the number of trees and fit that many on train and valid rows; returns it and the model's text."""
    import lightgbm

    params = {**plan.params, **(network or {})}
    if plan.cross_validate and world == 1:
        rounds = _cross_validated(plan, params, rows)
    else:
        rounds = _early_stopped(plan, params, rows, rank, world)
    booster = lightgbm.train(params, _dataset(plan, shard(rows, rank, world)), num_boost_round=rounds)
    text: str = booster.model_to_string()
    return rounds, text


def _early_stopped(plan: TreePlan, params: dict[str, Any], rows: pa.Table, rank: int, world: int) -> int:
    import lightgbm

    train = _dataset(plan, shard(part(rows, "train"), rank, world))
    # All workers measure all valid rows, so that all stop after the same tree.
    valid = _dataset(plan, part(rows, "valid"), reference=train)
    stop = lightgbm.early_stopping(STOPPING_ROUNDS, verbose=False)
    booster = lightgbm.train(params, train, plan.num_trees, valid_sets=[valid], callbacks=[stop])
    return max(1, int(booster.best_iteration))


def _cross_validated(plan: TreePlan, params: dict[str, Any], rows: pa.Table) -> int:
    import lightgbm

    stop = lightgbm.early_stopping(STOPPING_ROUNDS, verbose=False)
    stratified = plan.target.task is not Task.regression
    folds = FOLDS if rows.num_rows * len(plan.encoder.fields) < MANY_CELLS else FOLDS_OF_MANY
    curves = lightgbm.cv(
        params, _dataset(plan, rows), plan.num_trees, nfold=folds, stratified=stratified, shuffle=True,
        seed=int(params["seed"]), callbacks=[stop],
    )  # fmt: skip
    return max(1, *(len(curve) for curve in curves.values()))


def _dataset(plan: TreePlan, rows: pa.Table, reference: "lightgbm.Dataset | None" = None) -> "lightgbm.Dataset":
    import lightgbm

    names = [field.name for field in plan.encoder.fields]
    categorical = [names[i] for i in plan.encoder.categorical]
    return lightgbm.Dataset(
        plan.encoder.matrix(columns(rows)), plan.target.encode(rows, scaled=False), reference=reference,
        feature_name=names, categorical_feature=categorical or "auto", params=plan.params, free_raw_data=False,
    )  # fmt: skip


def _network() -> dict[str, Any]:
    from ray.train.lightgbm import get_network_params

    params: dict[str, Any] = get_network_params()
    return {**params, "tree_learner": "data", "pre_partition": True, "time_out": SOCKET_TIMEOUT_MIN}
