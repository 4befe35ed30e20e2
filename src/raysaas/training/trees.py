"""The tree family: LightGBM in Ray Train workers, with defaults that hold from 200 rows to millions."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raysaas.records import Family, Task
from raysaas.settings import Model, Settings
from raysaas.training import runs
from raysaas.training.arrays import columns, fit_columns, part
from raysaas.training.boosting import MODEL_FILE, TreePlan, worker
from raysaas.training.evaluate import Candidate

# Below this many rows one valid split is too noisy to choose the number of trees: cross-validation does.
CROSS_VALIDATED_ROWS = 3000
# From here on the rows are spread over workers that build each tree together.
DISTRIBUTED_ROWS = 2_000_000
ROWS_PER_SQUARED_LEAF = 30
OBJECTIVES = {Task.binary: "binary", Task.multiclass: "multiclass", Task.regression: "regression"}


def fit_trees(settings: Settings, table: pa.Table, out: Path, *, material: runs.Material | None = None) -> Candidate:
    """Fit LightGBM by Ray Train and save its bundle at ``out``; deterministic by ``seed``.

    The number of trees is what early stopping on the valid rows (cross-validation below 3,000 rows) finds best;
    then train and valid rows together are fitted with it. One worker up to 2 million rows, then ``train.num_workers``
    with ``tree_learner=data``. A killed worker starts again: trees are not checkpointed half-way.
    """
    import lightgbm
    import ray
    from ray.train.lightgbm import LightGBMTrainer

    started = time.monotonic()
    material = material or runs.prepare(settings, table)
    train = settings.train
    rows = _features(part(material.table, "train", "valid"), ["split"])
    num_workers = train.num_workers if rows.num_rows > DISTRIBUTED_ROWS else 1
    cpus = train.num_workers * train.cpus_per_worker / num_workers
    trainer = LightGBMTrainer(
        worker,
        train_loop_config={"plan": plan_of(settings, material, rows, cpus), "rows": ray.put(rows)},
        scaling_config=runs.scaling_config(settings, num_workers, cpus),
        run_config=runs.run_config(settings, Family.trees),
    )
    result = runs.run(trainer)
    text = _text(result)
    outputs = np.asarray(
        lightgbm.Booster(model_str=text).predict(material.encoder.matrix(columns(part(table, "test"))), num_threads=1)
    )
    meta = {"rounds": (result.metrics or {})["rounds"], "num_workers": num_workers}
    made = runs.candidate(material, out, Family.trees, outputs, started=started, trees=text, meta=meta)
    runs.discard(result.path)
    return made


def plan_of(settings: Settings, material: runs.Material, rows: pa.Table, cpus: float = 1.0) -> TreePlan:
    """The plan of a tree fit as configured, for so many ``rows`` of train and valid."""
    num_train = part(rows, "train").num_rows
    target = material.target
    params = {
        **tree_params(settings.model, rows.num_rows),
        "objective": OBJECTIVES[target.task],
        "num_threads": max(1, round(cpus)),
        "seed": settings.seed,
    }
    if target.task is Task.multiclass:
        params["num_class"] = len(target.labels)
    few = num_train < CROSS_VALIDATED_ROWS or num_train == rows.num_rows
    return TreePlan(
        encoder=material.encoder, target=target, params=params, num_trees=settings.model.num_trees, cross_validate=few
    )


def tree_params(model: Model, num_rows: int) -> dict[str, Any]:
    """LightGBM parameters by the number of rows: few rows get small, strongly regularised trees.

    ``model.num_leaves`` and ``model.min_leaf_rows`` are upper bounds, reached at some 30,000 and 2,000 rows. Chosen by
    cross-validation on small public sets against scikit-learn's boosting: docs/BENCHMARKS.md.
    """
    leaves = int(np.clip(round(math.sqrt(num_rows / ROWS_PER_SQUARED_LEAF)), 4, max(4, model.num_leaves)))
    return {
        "learning_rate": model.tree_learning_rate,
        "num_leaves": leaves,
        "min_data_in_leaf": int(np.clip(num_rows // 100, 5, max(5, model.min_leaf_rows))),
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "cat_smooth": 10.0,
        "cat_l2": 10.0,
        "min_data_per_group": int(np.clip(num_rows // 50, 5, 100)),
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _features(table: pa.Table, keep: list[str]) -> pa.Table:
    return table.select([*fit_columns(table), *keep]).combine_chunks()


def _text(result: Any) -> str:
    with result.checkpoint.as_directory() as folder:
        return (Path(folder) / MODEL_FILE).read_text()
