"""Fits a use case's models: the network by Ray Train's ``TorchTrainer``, and every family side by side."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysaas.models import network, steps
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas.training import fitter, linear, loop, runs
from raysaas.training.arrays import columns, fit_columns, part
from raysaas.training.evaluate import Candidate
from raysaas.training.trees import fit_trees

if TYPE_CHECKING:
    from torch import Tensor

# A lost peer is noticed after this long; the fit then restarts from its last checkpoint.
COLLECTIVE_TIMEOUT_S = 120


def fit(settings: Settings, table: pa.Table, out: Path) -> list[Candidate]:
    """Fit every family of ``model.families`` on a training set; bundles go to ``out/<family>``.

    ``table`` has the columns row_id, tenant, entity, event_time, known_at, split, label, then features.
    """
    material = runs.prepare(settings, table)
    families = {"linear": fit_linear, "network": fit_network, "trees": fit_trees}
    return [families[name](settings, table, out / name, material=material) for name in settings.model.families]


def fit_linear(settings: Settings, table: pa.Table, out: Path, *, material: runs.Material | None = None) -> Candidate:
    """Fit the baseline and save it as a bundle (a network without hidden layers), so that it can serve itself."""
    import torch

    started = time.monotonic()
    material = material or runs.prepare(settings, table)
    target, train = material.target, part(material.table, "train")
    labels = target.encode(train) if target.task is Task.regression else runs.truth(train, target)
    fitted = linear.fit(target.task, target.labels, material.encoder, columns(train), labels)
    module = network.build(material.encoder.width, target.outputs, (), 0.0)
    state = {"0.weight": torch.from_numpy(fitted.weight), "0.bias": torch.from_numpy(fitted.bias)}
    module.load_state_dict({name: value.float() for name, value in state.items()})
    outputs = fitted.outputs(material.encoder.dense(columns(part(material.table, "test"))))
    outputs = outputs * target.std + target.mean if target.task is Task.regression else outputs
    return runs.candidate(material, out, Family.linear, outputs, started=started, network=module)


def fit_network(
    settings: Settings, table: pa.Table, out: Path, *, material: runs.Material | None = None, **overrides: Any
) -> Candidate:
    """Fit the network by data-parallel workers (gloo, or NCCL with a GPU each) and save its bundle at ``out``.

    ``overrides`` replace fields of ``fitter.Plan``. Early stopping keeps the best weights on the valid rows; a killed
    worker goes on from the last checkpoint, at most ``train.max_failures`` times.
    """
    started = time.monotonic()
    material = material or runs.prepare(settings, table)
    plan = replace(plan_of(settings, material), **overrides)
    return network_candidate(plan, material, out, run_workers(settings, plan, material.table), started=started)


def run_workers(settings: Settings, plan: fitter.Plan, table: pa.Table) -> dict[str, Any]:
    """Run Ray Train's workers to the end; returns the final state, as ``fitter.Fitter.save`` wrote it."""
    result = runs.run(_trainer(settings, plan, table))
    state = final_state(result)
    runs.discard(result.path)
    return state


def plan_of(settings: Settings, material: runs.Material) -> fitter.Plan:
    """The plan of a network fit as configured."""
    model, train = settings.model, settings.train
    return fitter.Plan(
        use_case=settings.use_case.name, encoder=material.encoder, target=material.target, hidden=tuple(model.hidden),
        dropout=model.dropout, learning_rate=train.learning_rate, weight_decay=train.weight_decay,
        batch_size=train.batch_size, epochs=train.epochs, patience=train.patience, seed=settings.seed,
        num_rows=part(material.table, "train").num_rows,
    )  # fmt: skip


def network_candidate(
    plan: fitter.Plan, material: runs.Material, out: Path, state: dict[str, Any], *, started: float
) -> Candidate:
    """The candidate of a fit's final ``state``, as ``fitter.Fitter.save`` wrote it."""
    target = material.target
    module = network.build(plan.encoder.width, target.outputs, plan.hidden, plan.dropout)
    best: dict[str, Tensor] = state["best"]
    module.load_state_dict(best)
    x, _ = plan.tensors(part(material.table, "test"))
    outputs = steps.predict(module, x, task=target.task, target=(target.mean, target.std))
    meta = {"epochs": state["epoch"], "best_epoch": state["best_epoch"], "starts": state["starts"],
            "losses": state["losses"]}  # fmt: skip
    return runs.candidate(material, out, Family.network, outputs, started=started, network=module, meta=meta)


def _trainer(settings: Settings, plan: fitter.Plan, table: pa.Table) -> Any:
    import ray
    from ray.train.torch import TorchConfig, TorchTrainer

    use_gpu = settings.cluster.use_gpu
    train, valid = _features(part(table, "train")), _features(part(table, "valid"))
    config: dict[str, Any] = {"plan": plan, "train": None, "valid": ray.put(valid)}
    datasets = None
    if train.num_rows <= settings.train.max_rows_in_memory:
        # One object in the store instead of a Ray Data split: 2-3 s less per run, and the same shards in every run.
        config["train"] = ray.put(train)
    else:
        import ray.data

        datasets = {"train": ray.data.from_arrow(train)}
    return TorchTrainer(
        loop.worker,
        train_loop_config=config,
        datasets=datasets,
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=runs.scaling_config(
            settings, settings.train.num_workers, settings.train.cpus_per_worker, use_gpu=use_gpu
        ),
        run_config=runs.run_config(settings, Family.network),
    )


def _features(table: pa.Table) -> pa.Table:
    return table.select(fit_columns(table)).combine_chunks()


def final_state(result: Any) -> dict[str, Any]:
    """The fit's state in the last checkpoint of a Ray Train or Tune result."""
    with result.checkpoint.as_directory() as folder:
        return fitter.read_state(Path(folder))
