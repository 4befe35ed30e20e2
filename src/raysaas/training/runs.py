"""What the families share: the material of a run, Ray Train's configuration, and the candidate at the end."""

import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError, RaysaasError
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas.training import evaluate
from raysaas.training.arrays import Target, columns, kinds, part, source_names, with_folds
from raysaas.use_case import Encoding, UseCase

if TYPE_CHECKING:
    from ray.train import Result, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
    from torch import nn

T = TypeVar("T")
log = logging.getLogger(__name__)

# Ray Train's controller polls its workers every 2 s by default, which small fits would mostly wait for; an unanswered
# collective would wait for ever.
TRAIN_ENV = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "300"}
# Watches for spot nodes that are about to go: an extra process per run, useful where there are several nodes.
WATCHER_ENV = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """A training set and what is learned from it before any model: encoder, target, and the baseline to beat."""

    use_case: UseCase
    table: pa.Table
    encoder: Encoder
    target: Target
    baseline: Mapping[str, float]


def prepare(settings: Settings, table: pa.Table) -> Material:
    """Fit encoder and target on the train rows and measure the baseline, once for all families.

    Raises InputError when the train or test split is empty or the label has nothing to tell apart.
    """
    use_case = settings.use_case
    table = with_folds(table) if Encoding.target in use_case.encodings.values() else table
    train, test = part(table, "train"), part(table, "test")
    for name, rows in (("train", train), ("test", test)):
        if not rows.num_rows:
            raise InputError(f"The {name} split of {use_case.name} has no rows of {table.num_rows}: give more data.")
    target = Target.fit(table, use_case.task, use_case.examples.positive)
    encoder = Encoder.fit(
        columns(train), kinds(table), source_names(use_case), truth=_as_numbers(train, use_case.task),
        encodings={name: str(kind) for name, kind in use_case.encodings.items()},
    )  # fmt: skip
    baseline = evaluate.baseline(
        use_case.task, target.labels, encoder, columns(train), truth(train, target), columns(test), truth(test, target)
    )
    return Material(use_case=use_case, table=table, encoder=encoder, target=target, baseline=baseline)


def _as_numbers(train: pa.Table, task: Task) -> np.ndarray | None:
    """Labels [n] as a target encoding takes the mean of them; None where that says nothing."""
    label = train.column("label")
    if task is Task.regression:
        return np.asarray(label.cast(pa.float64()))
    texts = label.cast(pa.string())
    return np.asarray(pc.equal(texts, pc.max(texts)), dtype=np.float64) if task is Task.binary else None


def truth(table: pa.Table, target: Target) -> np.ndarray:
    """Labels as the metrics take them: strings [n], or float64 values [n]."""
    label = table.column("label")
    return np.array(label.cast(pa.string() if target.labels else pa.float64()).to_pylist())


def run_config(settings: Settings, family: Family) -> "RunConfig":
    """Ray Train's run configuration: results under ``<home>/ray_results``, restarts, quiet logs."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.v2.api.config import LoggingConfig

    for key, value in {**TRAIN_ENV, WATCHER_ENV: str(int(settings.cluster.multi_node))}.items():
        os.environ.setdefault(key, value)
    return RunConfig(
        name=f"{settings.use_case.name}-{family}-{uuid.uuid4().hex[:8]}",
        storage_path=f"{settings.storage.home}/ray_results",
        failure_config=FailureConfig(max_failures=settings.train.max_failures),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
        logging_config=LoggingConfig(log_level="ERROR"),
    )


def scaling_config(settings: Settings, num_workers: int, num_cpus: float, *, use_gpu: bool = False) -> "ScalingConfig":
    """``num_workers`` workers of ``num_cpus`` each, and one GPU each if asked for and the cluster has them."""
    from ray.train import ScalingConfig

    resources = {"CPU": num_cpus, **({"GPU": 1.0} if use_gpu else {})}
    return ScalingConfig(num_workers=num_workers, use_gpu=use_gpu, resources_per_worker=resources)


def run(trainer: "DataParallelTrainer") -> "Result":
    """Fit; a worker's own expected error is raised as itself instead of Ray Train's wrapper around it."""
    from ray.train.v2.api.exceptions import WorkerGroupError

    try:
        return interruptible(trainer.fit)
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            cause: Any = getattr(failure, "cause", failure)
            if isinstance(cause, RaysaasError):
                raise cause from error
        raise


def interruptible(fit: Callable[[], T]) -> T:
    """Call ``fit`` in a thread, so that Ctrl-C stays a KeyboardInterrupt here.

    In the main thread Ray Train and Tune put their own handler in place of ours and never take it back.
    """
    done: Future[T] = Future()

    def call() -> None:
        try:
            done.set_result(fit())
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            done.set_exception(error)

    threading.Thread(target=call, name="fit", daemon=True).start()
    return done.result()


def candidate(
    material: Material,
    out: Path,
    family: Family,
    outputs: np.ndarray,
    *,
    started: float,
    network: "nn.Module | None" = None,
    trees: str | None = None,
    meta: Mapping[str, Any] | None = None,
) -> evaluate.Candidate:
    """Save the bundle, load it as a replica would, and measure it on the test rows.

    ``outputs`` are the model's on the test rows, [n] or [n, k]: their scores are the reference of score drift, for the
    model did not fit these rows. ``started`` is a ``time.monotonic()``.
    """
    table, target = material.table, material.target
    test = part(table, "test")
    predicted = bundle.decide(target.task, target.labels, outputs)
    # In the manifest, so that the drift monitor knows what performance to expect.
    expected = evaluate.metrics(target.task, truth(test, target), predicted)
    digest = bundle.save(
        out, encoder=material.encoder, task=target.task, labels=target.labels, family=family,
        profile=Profile.fit(columns(table), kinds(table), predicted.score), network=network, trees=trees,
        target=(target.mean, target.std) if network is not None else (0.0, 1.0),
        meta={**(meta or {}), "metrics": _finite(expected)},
    )  # fmt: skip
    measured = evaluate.metrics(target.task, truth(test, target), bundle.load(out, digest).predict(columns(test)))
    seconds = time.monotonic() - started
    log.debug("%s: %s in %.1f s, %s", material.use_case.name, family, seconds, measured)
    return evaluate.Candidate(
        family=family, path=out, digest=digest, metrics=measured, baseline=material.baseline,
        num_rows=table.num_rows, seconds=seconds,
    )  # fmt: skip


def _finite(measured: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in measured.items() if np.isfinite(value)}


def discard(folder: str) -> None:
    """Remove a finished run's folder: the bundle holds the model. Failed runs are kept for whoever asks why."""
    shutil.rmtree(folder, ignore_errors=True)
