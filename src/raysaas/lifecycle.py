"""The whole path, one short function per verb: events -> dataset -> features -> model -> release -> drift -> order.

Each verb takes settings and returns a JSON-ready dict. Rooms decide, stores keep, this file calls. Engines are imported
inside the verbs, because a serving replica imports this module for ``application`` alone.
"""

import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysaas import cluster, releases
from raysaas.admission import admit
from raysaas.errors import Frozen, NotFound
from raysaas.lineage.runs import emits
from raysaas.records import OrderState, Release, RetrainOrder, Snapshot, TrainingSet, plain
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger

if TYPE_CHECKING:
    import pyarrow as pa
    from ray import serve

    from raysaas.training.evaluate import Fitted
    from raysaas.training.judging import Judge

log = logging.getLogger("raysaas")


# --- data


def simulate(settings: Settings) -> dict[str, Any]:
    """Write the files of the use case's simulated SaaS under ``data_dir``, drawn by Ray Data tasks."""
    from raysaas.ingest.simulate import into_data_dir

    return {"use_case": settings.use_case.name, "rows": into_data_dir(settings)}


@emits("ingest")
def ingest(settings: Settings) -> dict[str, Any]:
    """Read every source of the use case into its Iceberg table; refused rows go to quarantine."""
    from raysaas.ingest.ordering import reading_order
    from raysaas.ingest.pipeline import ingest as ingest_source
    from raysaas.stores.tables import Tables

    tables, now = Tables(settings.storage), datetime.now(UTC)
    order = reading_order(settings.use_case.sources)
    return _taken(settings, {name: [ingest_source(settings, name, tables, now)] for name in order})


def ingest_or_watch(settings: Settings) -> dict[str, Any]:
    """The job: :func:`ingest` once, or with ``ingest.every_s`` again and again until it is stopped."""
    from raysaas.ingest.watching import watch as watch_sources
    from raysaas.stores.tables import Tables

    if settings.ingest.every_s is None:
        return ingest(settings)
    watch_sources(settings, Tables(settings.storage), partial(emits("ingest")(_taken), settings))
    return {"use_case": settings.use_case.name}


def _taken(settings: Settings, snapshots: Mapping[str, Sequence[Snapshot]]) -> dict[str, Any]:
    """What a round of ingest took; with ``features.on_arrival`` whoever came in is brought up to date online."""
    from raysaas.stores.tables import Tables

    new = [one for several in snapshots.values() for one in several]
    total = {key: sum(getattr(one, f"num_{key}") for one in new) for key in ("read", "accepted", "quarantined")}
    sources = {name: plain(several[-1]) for name, several in snapshots.items()}
    result: dict[str, Any] = {"use_case": settings.use_case.name, "rows": total, "sources": sources}
    if settings.features.on_arrival:
        from raysaas.features.arrival import arrived

        result["refreshed"] = arrived(settings, Tables(settings.storage), new)
    return result


@emits("materialize")
def materialize(settings: Settings) -> dict[str, Any]:
    """Build the point-in-time training set and bring the online rows up to date."""
    from raysaas.features import build
    from raysaas.stores.tables import Tables

    tables, now = Tables(settings.storage), datetime.now(UTC)
    entities = build.materialize(settings, tables, now)
    training, _ = _training_set(settings)
    return {"use_case": settings.use_case.name, "entities": entities, "training_set": plain(training)}


@emits("training_set")
def _training_set(settings: Settings) -> tuple[TrainingSet, "pa.Table"]:
    from raysaas.features.pinned import pinned
    from raysaas.stores.tables import Tables

    return pinned(settings, Tables(settings.storage), Ledger(settings.storage.ledger_url or ""), now=datetime.now(UTC))


# --- models


@emits("train")
def train(settings: Settings) -> dict[str, Any]:
    """Fit every family of ``model.families``, register each version and let the gate judge it."""
    from raysaas.training.trainer import fit

    return admit(settings, *_training_set(settings), lambda table, out, _: (fit(settings, table, out), {}))


@emits("sweep")
def sweep(settings: Settings) -> dict[str, Any]:
    """Search the network's shape with Ray Tune and put the best trial before the gate."""
    from raysaas.training import sweep as search

    def best(table: "pa.Table", out: Path, _: "Judge") -> tuple[Sequence["Fitted"], dict[str, Any]]:
        candidate, trials = search.sweep(settings, table, out)
        return [candidate], {"trials": trials}

    return admit(settings, *_training_set(settings), best)


@emits("federate")
def federate(settings: Settings) -> dict[str, Any]:
    """Train over edge nodes with Flower and put the result before the gate."""
    from raysaas.federation.job import Problem
    from raysaas.federation.run import federate as over_nodes
    from raysaas.training import runs

    def averaged(table: "pa.Table", out: Path, judge: "Judge") -> tuple[Sequence["Fitted"], dict[str, Any]]:
        known = runs.prepare(settings, table)
        scale = (known.target.mean, known.target.std)
        problem = Problem(encoder=known.encoder, labels=known.target.labels, target=scale)
        made = over_nodes(settings, table, out, problem=problem, measure=judge.measure, baseline=known.baseline)
        return [made], {"rounds": made.rounds, "sites": made.sites, "timings": made.timings}

    return admit(settings, *_training_set(settings), averaged)


# --- release


def deploy(settings: Settings) -> dict[str, Any]:
    """Put the champion in front of users: a first application, or a message to the one that runs."""
    from raysaas.stores.registry import Registry

    champion = Registry(settings.storage).champion(settings.use_case.name)
    if champion is None:
        raise NotFound(
            f"{settings.use_case.name} has no champion yet: train one (`raysaas run train use_case="
            f"{settings.use_case.name}`); the gate's reasons are in its result."
        )
    release = releases.introduce(settings, champion, actor="deploy")
    return {
        "use_case": release.use_case,
        "release": plain(release),
        "url": f"{cluster.head(settings).url}/{release.use_case}",
    }


def restore(settings: Settings) -> Release | None:
    """Make the recorded release answer again on a new head; None when there is none."""
    release = Ledger(settings.storage.ledger_url or "").release(settings.use_case.name)
    if release is not None:
        releases.apply(settings, release)
    return release


def application(args: Mapping[str, Any]) -> "serve.Application":
    """Serve's import path: bind one use case's application, with its drift and release actors."""
    from raysaas.serving import app

    return app.build(
        args, monitor="raysaas.drift.monitor:DriftActor", on_order="raysaas.lifecycle:submit_retrain",
        releaser="raysaas.release.actor:ReleaseActor", on_verdict="raysaas.verdicts:act",
    )  # fmt: skip


# --- watching and retraining


def watch(settings: Settings) -> dict[str, Any]:
    """Ship closed journals to Iceberg, render the drift report, compare served features with the stored ones."""
    from raysaas.drift import report
    from raysaas.features.skew import publish_rate, skew
    from raysaas.ingest.compacting import compact_shipped
    from raysaas.stores.tables import Tables

    shipped = ship(settings)
    ledger, name, tables = Ledger(settings.storage.ledger_url or ""), settings.use_case.name, Tables(settings.storage)
    compact_shipped(settings, tables, datetime.now(UTC))
    html = report.render(settings, ledger)
    differing = skew(settings, tables)
    publish_rate(name, differing.rate)
    drift = [plain(one) for one in ledger.drift(name, 10)]
    return {"use_case": name, "shipped": shipped, "html": html, "skew": differing.summary(), "drift": drift}


@emits("ship")
def ship(settings: Settings, *, wait: bool = False) -> dict[str, int]:
    """Move closed journal segments to Iceberg, each exactly once.

    With ``wait`` those that are open now too: their writers close them when they are ``serve.segment_age_s`` old.
    """
    from raysaas.stores import journal
    from raysaas.stores.tables import Tables

    root, name, tables = Path(settings.storage.journal or ""), settings.use_case.name, Tables(settings.storage)
    shipped = {}
    for kind in ("outcomes", "shadows", "decisions"):  # in this order an outcome's decision is there too
        if wait and not journal.await_closed(root, name, kind, settings.serve.segment_age_s + 10):
            log.warning("The newest %s of %s are still being written: they are not part of this.", kind, name)
        shipped[kind] = journal.ship(root, name, kind, tables)
    return shipped


@emits("retrain")
def retrain(settings: Settings) -> dict[str, Any]:
    """Carry out the open retrain order: newest data, new versions, the gate, and a release if one proves better.

    A champion that was changed since the order was opened (or this began) stays: a person knew better.
    """
    ledger = Ledger(settings.storage.ledger_url or "")
    order = next((o for o in ledger.orders(settings.use_case.name) if o.state is OrderState.open), None)
    if order is not None and not ledger.start_order(order.id):
        order = None
    now = ledger.release(settings.use_case.name)
    since = (order.evidence if order else {}).get("release", now.sequence if now else 0)
    try:
        with ledger.beating(order.id) if order else nullcontext():
            result = _retrained(settings, since)
    except BaseException as error:
        _close(ledger, order, OrderState.failed, f"{type(error).__name__}: {error}")
        raise
    _close(ledger, order, OrderState.done, result["outcome"])
    return result | {"order": order.id if order else None}


def _retrained(settings: Settings, since: int) -> dict[str, Any]:
    ingested = ingest(settings)
    ship(settings, wait=True)  # what ordered the retraining is part of it
    materialize(settings)
    trained = train(settings)
    better = [version for version in trained["versions"] if version["released"]]
    result = {"outcome": "no version beat the champion: it stays", "released": False}
    if better:
        result = _replaced(settings, better[-1]["version"], since)
    return {**trained, "rows": ingested["rows"], **result}


def _replaced(settings: Settings, number: int, since: int) -> dict[str, Any]:
    from raysaas.stores.registry import Registry

    registry, name = Registry(settings.storage), settings.use_case.name
    version = registry.version(name, number)
    try:
        release = releases.introduce(settings, version, actor="retrain", since=since)
    except Frozen as error:
        outcome = f"version {number} passed the gate but was not released: {error}"
        return {"outcome": outcome, "released": False, "champion": plain(registry.champion(name))}
    champion, outcome = release.champion.version, f"version {number} replaced the champion: {version.reason}"
    beside = [*(variant.arm for variant in release.variants), *([release.shadow] if release.shadow else [])]
    if number in {arm.version for arm in beside}:
        outcome = f"version {number} runs beside the champion as {settings.release.strategy}: {version.reason}"
    elif champion != number:
        by_hand = "" if release.actor in ("deploy", "retrain", "release") else " by hand"
        who = f"{release.actor} changed the champion{by_hand} meanwhile"
        then = f"promote it with `raysaas promote {name} {number}`"
        outcome = f"version {number} passed the gate but was not released: {who}; {then}"
    return {"outcome": outcome, "released": champion == number, "champion": plain(registry.version(name, champion))}


def _close(ledger: Ledger, order: RetrainOrder | None, state: OrderState, result: str) -> None:
    if order is not None:
        ledger.close_order(order.id, state, result, datetime.now(UTC))


def submit_retrain(order: RetrainOrder, storage: Mapping[str, Any]) -> None:
    """Called by the drift monitor after it wrote an order: run the retrain job with the settings that were deployed."""
    from ray.job_submission import JobSubmissionClient

    settings_file = Path(storage["home"]) / "deployed" / f"{order.use_case}.json"
    command = [sys.executable, "-m", "raysaas.cli", "run", "retrain", "--json", "--settings", str(settings_file)]
    JobSubmissionClient().submit_job(
        entrypoint=shlex.join(command),
        submission_id=f"retrain-{order.use_case}-{order.id}",
        metadata={"use_case": order.use_case, "job": "retrain", "order": str(order.id)},
    )


# --- all of it


@emits("pipeline")
def pipeline(settings: Settings) -> dict[str, Any]:
    """From files to a served model: ingest, materialize, train, gate, deploy."""
    name = settings.use_case.name
    ingested = ingest(settings)
    materialize(settings)
    trained = train(settings)
    champion = trained["champion"]
    deployed = deploy(settings) if champion else None
    best = champion or (trained["versions"] or [{}])[-1]
    return {
        "use_case": name,
        "task": str(settings.use_case.task),
        "rows": ingested["rows"],
        "model_version": best.get("version"),
        "metrics": best.get("metrics", {}),
        "baseline": best.get("baseline", {}),
        "released": deployed is not None,
        "reason": best.get("reason", ""),
        "warnings": trained["warnings"] + [w for s in ingested["sources"].values() for w in s["warnings"]],
        "url": deployed["url"] if deployed else None,
    }


JOBS = {
    "simulate": simulate,
    "ingest": ingest_or_watch,
    "materialize": materialize,
    "train": train,
    "sweep": sweep,
    "federate": federate,
    "deploy": deploy,
    "watch": watch,
    "retrain": retrain,
    "pipeline": pipeline,
}
