"""One federated run from a training table to a model bundle: real SuperLink, real SuperNodes, disjoint rows."""

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError, Unavailable
from raysaas.federation import job, sites
from raysaas.federation.superlink import CONNECTION, Federation
from raysaas.records import Family
from raysaas.settings import Settings
from raysaas_edge.plan import Plan

# Each look starts a `flwr` process, which costs a second of CPU.
_LOOK_S = 30.0

log = logging.getLogger(__name__)

Measure = Callable[[Path], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedCandidate:
    """A federated model that may be registered; the first fields are those of the training room's Candidate.

    ``rounds`` has one entry per round: used, refused, shares, mean training loss, central validation loss, seconds
    since the ServerApp started. ``timings`` are seconds by phase. ``sites`` counts training rows by site.
    """

    family: Family = Family.federated
    path: Path
    digest: str
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]
    num_rows: int
    seconds: float
    rounds: tuple[Mapping[str, Any], ...] = ()
    sites: Mapping[str, int] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def federate(
    settings: Settings,
    table: pa.Table,
    out: Path,
    *,
    problem: job.Problem,
    measure: Measure,
    baseline: Mapping[str, float],
) -> FederatedCandidate:
    """Train the network by FedAvg over ``settings.federated.num_nodes`` sites and save it as a bundle under ``out``.

    ``table`` is a training set; its ``train`` rows are shared out and never leave their site. ``measure`` gives a
    bundle folder's metrics on the held-back rows, ``baseline`` are the ones to beat. Raises InputError when rows are
    missing, Unavailable when Flower's processes fail or time out.
    """
    started, path = time.monotonic(), out / "federated"
    train, valid = _part(table, "train"), _part(table, "valid")
    chosen = sites.partition(train, settings.federated.num_nodes, settings.federated.partition_by)
    if chosen.warning:
        log.warning("%s", chosen.warning)
    with _private_folder() as home:
        plan = job.prepare(settings, problem, valid, home / "server")
        rows = sites.write(train, chosen.site, home / "sites")
        prepared = time.monotonic()
        history = _train(settings, plan, rows, home)
        trained = time.monotonic()
        meta = {"sites": len(rows), "partition_by": chosen.by}
        job.save(plan, train, valid, home / "server", home / "draft", meta=meta)
        metrics = measure(home / "draft")
        meta["metrics"] = {name: value for name, value in metrics.items() if math.isfinite(value)}
        digest = job.save(plan, train, valid, home / "server", path, meta=meta)
    _count(settings.use_case.name, history["rounds"])
    ended = time.monotonic()
    timings = {"prepare": prepared - started, **history["timings"], "save": ended - trained}
    return FederatedCandidate(
        path=path, digest=digest, num_rows=table.num_rows, seconds=ended - started, metrics=metrics, baseline=baseline,
        rounds=tuple(history["rounds"]), sites={name: int((chosen.site == i).sum()) for i, name in enumerate(rows)},
        timings={name: round(seconds, 2) for name, seconds in timings.items()},
        warnings=(chosen.warning,) if chosen.warning else (),
    )  # fmt: skip


def _count(use_case: str, rounds: list[Mapping[str, Any]]) -> None:
    from ray.util.metrics import Counter, Gauge

    done = Counter("raysaas_federated_rounds", "Federated rounds that ended.", tag_keys=("use_case",))
    loss = Gauge("raysaas_federated_valid_loss", "Central validation loss of the last round.", tag_keys=("use_case",))
    done.inc(len(rounds), {"use_case": use_case})
    loss.set(rounds[-1]["valid_loss"], {"use_case": use_case})


def _part(table: pa.Table, split: str) -> pa.Table:
    found = table.filter(pc.equal(table.column("split"), split))
    if found.num_rows == 0:
        raise InputError(f"The training set has no `{split}` rows: widen the use case's data or its split.")
    return found


@contextmanager
def _private_folder() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="raysaas-federation-"))
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _train(settings: Settings, plan: Plan, rows: Mapping[str, Path], home: Path) -> dict[str, Any]:
    begun, wall = time.monotonic(), time.time()
    logs = Path(settings.storage.home) / "logs" / "federation" / settings.use_case.name
    app = job.write_app(plan, home / "app")
    with Federation(home, logs, rows) as federation:
        ready = time.monotonic()
        run_id = json.loads(federation.flwr("run", str(app), CONNECTION, "--format", "json"))["run-id"]
        submitted = time.monotonic()
        history = _await(federation, plan, run_id, begun + settings.federated.timeout_s)
        done = time.monotonic()
    rounds_started = history["started_at"] - wall
    history["timings"] = {
        "start": round(ready - begun, 2),
        "submit": round(submitted - ready, 2),
        "server_app": round(rounds_started - (submitted - begun), 2),
        "rounds": round(done - begun - rounds_started, 2),
        "stop": round(time.monotonic() - done, 2),
    }
    return history


def _await(federation: Federation, plan: Plan, run_id: str, deadline: float) -> dict[str, Any]:
    result, next_look = Path(plan.server["folder"]) / "history.json", time.monotonic() + _LOOK_S
    while time.monotonic() < deadline:
        if result.exists():
            history: dict[str, Any] = json.loads(result.read_text())
            if "error" in history:
                raise Unavailable(f"The federated run failed: {history['error']} (logs: {federation.logs})")
            return history
        federation.check(plan.min_nodes)
        if time.monotonic() > next_look:
            _still_running(federation, run_id, result)
            next_look = time.monotonic() + _LOOK_S
        time.sleep(0.1)
    raise Unavailable(f"The federated run did not end in time: raise federated.timeout_s or see {federation.logs}.")


def _still_running(federation: Federation, run_id: str, result: Path) -> None:
    """A ServerApp that was killed writes no result; only the SuperLink knows."""
    listed = json.loads(federation.flwr("list", CONNECTION, "--run-id", run_id, "--format", "json"))
    status = str(listed["runs"][0]["status"])
    if status.startswith("finished") and not result.exists():
        raise Unavailable(f"The ServerApp ended as {status!r} without a result; see {federation.logs}.")
