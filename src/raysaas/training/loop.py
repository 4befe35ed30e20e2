"""One Ray Train worker of a network fit: its shard of the rows, its reports and checkpoints."""

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from raysaas.training.arrays import shard
from raysaas.training.fitter import Fitter, Plan, limit_threads

if TYPE_CHECKING:
    import torch
    from ray.train import Checkpoint

    from raysaas.training.fitter import Chunks

log = logging.getLogger(__name__)

CHUNK_BATCHES = 64


def worker(config: dict[str, Any]) -> None:
    """Ray Train's ``train_loop_per_worker``: ``config`` holds a ``Plan`` and references to the tables.

    ``train`` None means that the rows are streamed from the Ray Data shard of that name, anew in each epoch.
    """
    import ray
    import ray.train.torch

    plan: Plan = config["plan"]
    context = ray.train.get_context()
    rank, world, device = context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device()
    limit_threads(device.type)
    fitter = Fitter(plan, rank=rank, world=world, device=device, wrap=ray.train.torch.prepare_model)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            fitter.load(Path(folder))
        log.info("resumed after epoch %d", fitter.epoch)
    train = _chunks(plan, config["train"], rank, world, device)
    valid_table: pa.Table = ray.get(config["valid"])
    pair = plan.tensors(valid_table.take(np.arange(rank, valid_table.num_rows, world)), device)
    _epochs(fitter, train, lambda: [pair])


def _epochs(fitter: Fitter, train: "Chunks", valid: "Chunks") -> None:
    """Fit until finished, reporting with a checkpoint every ``checkpoint_s`` seconds and at the end."""
    gauge = loss_gauge(fitter.plan.use_case)
    saved = time.monotonic()
    if fitter.finished:
        _report(fitter)
    while not fitter.finished:
        due = fitter.step(train, valid, wish=time.monotonic() - saved >= fitter.plan.checkpoint_s)
        gauge(fitter.losses[-1][1])
        if due or fitter.finished:
            _report(fitter)
            saved = time.monotonic()


def _report(fitter: Fitter) -> None:
    import ray.train

    metrics = {"epoch": fitter.epoch, "valid_loss": fitter.losses[-1][1], "best_loss": fitter.best_loss}
    if fitter.rank:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        fitter.save(Path(folder))
        checkpoint: Checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


def loss_gauge(use_case: str) -> Callable[[float], None]:
    """Sets the gauge ``raysaas_valid_loss`` of a use case, for the Ray dashboard and Prometheus."""
    from ray.util.metrics import Gauge

    gauge = Gauge("raysaas_valid_loss", "Loss on the valid split after the last epoch.", tag_keys=("use_case",))
    return lambda value: gauge.set(value, tags={"use_case": use_case})


def _chunks(plan: Plan, reference: Any, rank: int, world: int, device: "torch.device") -> "Chunks":
    import ray

    if reference is not None:
        pair = plan.tensors(shard(ray.get(reference), rank, world), device)
        return lambda: [pair]
    stream = ray.train.get_dataset_shard("train")
    rows = plan.rows_per_step(world) * CHUNK_BATCHES
    return lambda: (
        plan.tensors(table, device) for table in stream.iter_batches(batch_size=rows, batch_format="pyarrow")
    )
