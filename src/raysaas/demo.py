"""``make demo``: the whole path on one use case, step by step, ending in one screen and ``var/demo/summary.json``."""

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc

from raysaas import access, cluster, entry, lifecycle, summary
from raysaas.errors import Unavailable
from raysaas.records import OrderState, RetrainOrder, Severity
from raysaas.replay import Replayer, plant
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.online import OnlineStore, online_views

_WINDOWS = 2  # windows of calm decisions, and of changed ones before patience starts
_PLANTED_ROWS = 5000
_ORDER_S, _RETRAIN_S = 60, 300
_TENANTS = ("acme", "globex", "initech")
_T = TypeVar("_T")


def run(
    settings: Settings, show: Callable[[str], object], *, keep: bool | None, skip: Collection[str] = ()
) -> dict[str, Any]:
    """Run every step on ``settings.use_case`` in a home of its own; returns the summary (also written as JSON).

    ``show`` gets the screen at the end, before the service waits for Ctrl-C (``keep``; None: on a terminal only).
    ``skip`` leaves out ``sweep``, ``federate`` or both.
    """
    root = Path(settings.storage.home) / "demo"
    if not settings.use_case.simulate:
        _check_sources(settings)
    settings = _in_own_home(settings, root)
    story = _Story(settings, skip)
    try:
        told = story.tell()
        (root / "summary.json").write_text(json.dumps(told, indent=2, default=str))
        show(summary.screen(told))
        if keep or (keep is None and sys.stdin.isatty()):
            _wait_for_interrupt()
    finally:
        with entry.uninterrupted():
            cluster.disconnect()
            cluster.down(settings)
    return told


def _check_sources(settings: Settings) -> None:
    """A missing file is said before anything is started."""
    from raysaas.ingest.sources import discover

    for source in settings.use_case.sources.values():
        if source.path:
            discover(source, settings.data_dir)


def _in_own_home(settings: Settings, root: Path) -> Settings:
    """A fresh home, so that every demo starts from nothing and touches nobody's state."""
    home = root / settings.use_case.name
    fresh = replace(settings, storage=type(settings.storage)(home=str(home)), home=str(home))
    cluster.down(fresh)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return replace(fresh, data_dir=str(home / "landing")) if settings.use_case.simulate else fresh


def _wait_for_interrupt() -> None:
    sys.stderr.write("\nThe service stays up until Ctrl-C.\n")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        sys.stderr.write("stopping\n")


class _Story:
    """The steps in order; each adds its facts to ``facts``."""

    def __init__(self, settings: Settings, skip: Collection[str]) -> None:
        self.settings, self.name, self.skip = settings, settings.use_case.name, skip
        self.ledger = Ledger(settings.storage.ledger_url or "")
        self.facts: dict[str, Any] = {
            "use_case": self.name,
            "task": str(settings.use_case.task),
            "home": settings.storage.home,
            "steps": {},
        }
        self.memory = _PeakMemory()

    def tell(self) -> dict[str, Any]:
        """All of it."""
        started = time.monotonic()
        with self.memory:
            head = self._start()
            self._models()
            with self._traffic(head.url) as replayer:
                self._calm(replayer)
                self._changed(replayer)
                self._retrained(replayer)
                self.facts["traffic"] = _traffic(replayer)
            with self.step("watch", "report for people, served features against stored ones") as say:
                watched = lifecycle.watch(self.settings)
                self.facts["drift"]["html"], self.facts["skew"] = watched["html"], watched["skew"]
                say(_skew(watched["skew"]))
        self.facts |= {"seconds": round(time.monotonic() - started, 1), "peak_memory_gb": self.memory.gb}
        return self.facts

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[Callable[[str], None]]:
        """Print a line when a step starts and one when it ends, with its time and what came of it."""
        said: list[str] = []
        sys.stderr.write(f"{name:<12} {what} ...\n")
        started = time.monotonic()
        yield said.append
        seconds = round(time.monotonic() - started, 1)
        self.facts["steps"][name] = seconds
        sys.stderr.write(f"{'':<12} {seconds:>5.1f} s  {'; '.join(said)}\n")

    def _start(self) -> cluster.Head:
        with self.step("start", "local Ray head with dashboard") as say:
            entry.connected(self.settings, "demo")
            head = cluster.up(self.settings)
            self.facts |= {"dashboard_url": head.dashboard_url, "api_key": access.first_key(self.settings)}
            say(head.dashboard_url)
        return head

    def _models(self) -> None:
        settings = self.settings
        if settings.use_case.simulate:
            with self.step("simulate", "a multi-tenant SaaS up to the planted change") as say:
                say(_counts(_simulate(settings, upto=_change_day(settings))))
        with self.step("ingest", "files -> contract -> Iceberg") as say:
            rows = lifecycle.ingest(settings)["rows"]
            self.facts["rows"] = rows
            say(", ".join(f"{count} {what}" for what, count in rows.items()))
        with self.step("materialize", "Feast views, point-in-time training set, online rows") as say:
            made = lifecycle.materialize(settings)
            self.facts["training_rows"] = made["training_set"]["num_rows"]
            say(f"{made['training_set']['num_rows']} training rows, {made['entities']} entities online")
        for job, what in (
            ("train", "network (Ray Train) and trees (LightGBM) against the baseline"),
            ("sweep", f"{settings.tune.num_samples} trials (Ray Tune, Optuna, ASHA)"),
            ("federate", f"{settings.federated.num_nodes} Flower nodes, {settings.federated.rounds} rounds"),
        ):
            if job in self.skip:
                continue
            with self.step(job, what) as say:
                self._remember(lifecycle.JOBS[job](settings), say)
        with self.step("deploy", "Ray Serve behind HAProxy") as say:
            deployed = lifecycle.deploy(settings)
            champion = deployed["release"]["champion"]["version"]
            self.facts |= {"url": deployed["url"], "champion": champion, "released": True}
            say(f"version {champion} answers at {deployed['url']}")

    def _remember(self, trained: Mapping[str, Any], say: Callable[[str], None]) -> None:
        for version in trained["versions"]:
            self.facts.setdefault("versions", []).append(version)
            self.facts["baseline"] = version["baseline"]
            say(f"v{version['version']} {version['family']}: {'released' if version['released'] else 'kept back'}")
        if trained["champion"]:
            self.facts |= {"model_version": trained["champion"]["version"], "metrics": trained["champion"]["metrics"]}

    @contextmanager
    def _traffic(self, url: str) -> Iterator[Replayer]:
        table = _training_rows(self.settings)
        tenants = sorted(set(table["tenant"].to_pylist()))
        names = tenants if len(tenants) > 1 else _TENANTS
        keys = {tenant: access.create(self.settings, tenant, ["predict", "feedback"]) for tenant in names}
        replayer = Replayer(url, self.name, keys)
        try:
            yield replayer
        finally:
            replayer.close()

    def _calm(self, replayer: Replayer) -> None:
        drift = self.settings.drift
        rows = _held_back(self.settings).slice(0, drift.window * _WINDOWS)
        with self.step("traffic", f"{rows.num_rows} held-back rows as requests of several tenants") as say:
            replayer.rows(rows, single=min(300, rows.num_rows // 2))
            windows = rows.num_rows // drift.window
            reports = self._wait(lambda: self.ledger.drift(self.name), lambda r: len(r) >= windows, _ORDER_S)
            orders = self.ledger.orders(self.name)
            severities = [str(report.severity) for report in reports]
            self.facts["drift"] = {"calm": severities, "silent_before": Severity.drift not in severities and not orders}
            self.facts["latency"] = {"p50_ms": replayer.tally.percentile(50), "p99_ms": replayer.tally.percentile(99)}
            say("one row: p50 {p50_ms} ms, p99 {p99_ms} ms".format(**self.facts["latency"]))
            say(f"drift monitor: {', '.join(severities) or 'no full window'}")

    def _changed(self, replayer: Replayer) -> None:
        with self.step("change", _what_changed(self.settings)) as say:
            if self.settings.use_case.simulate:
                self._arrive(replayer, say)
            else:
                replayer.rows(self._after_the_calm())
            orders = self._wait(lambda: self.ledger.orders(self.name), bool, _ORDER_S)
            newest = self._drifted()
            self.facts["drift"] |= newest
            say(f"drift monitor: {newest['severity']}, cause {', '.join(newest['cause'][:3])}")
            say(f"ordered: {orders[0].reason}" if orders else "no retraining was ordered")

    def _after_the_calm(self) -> pa.Table:
        """The same rows, changed; or of a real stream, which changes by itself, those that come next."""
        rows, change = _held_back(self.settings), self.settings.use_case.change
        return plant(rows, change) if change.what else rows.slice(self.settings.drift.window * _WINDOWS)

    def _arrive(self, replayer: Replayer, say: Callable[[str], None]) -> None:
        """Later months of the simulation land; features follow, and requests come by entity."""
        say(_counts(_simulate(self.settings, since=_change_day(self.settings))))
        lifecycle.ingest(self.settings)
        lifecycle.materialize(self.settings)
        online = OnlineStore(str(self.settings.storage.online_url))
        pairs = online.keys(online_views(self.settings.use_case)[0])
        wanted = self.settings.drift.window * (_WINDOWS + 1)
        replayer.entities(pairs[: max(wanted, 1)])

    def _drifted(self) -> dict[str, Any]:
        reports = self.ledger.drift(self.name)
        worst = next((r for r in reports if r.severity is Severity.drift), reports[0] if reports else None)
        if worst is None:
            return {"severity": "no window", "cause": [], "psi": {}}
        top = sorted(worst.features.items(), key=lambda item: -item[1])[:5]
        return {"severity": str(worst.severity), "cause": list(worst.cause), "psi": dict(top), "window": worst.window}

    def _retrained(self, replayer: Replayer) -> None:
        with self.step("retrain", "the ordered job, under steady traffic") as say:
            failed = replayer.tally.failed
            rows = plant(_held_back(self.settings).slice(0, 200), self.settings.use_case.change)
            with replayer.steadily(rows):
                order = self._closed_order()
            release = self.ledger.release(self.name)
            replaced = bool(order and release and release.champion.version != self.facts["champion"])
            self.facts["retrain"] = {
                "order": asdict(order) if order else None,
                "replaced": replaced,
                "champion": release.champion.version if release else None,
                "failed_requests": replayer.tally.failed - failed,
            }
            say(order.result.rstrip(".") if order else "no order was open")
            say(f"{replayer.tally.failed - failed} failed requests")

    def _closed_order(self) -> RetrainOrder | None:
        closed = (OrderState.done, OrderState.failed)
        orders = self._wait(
            lambda: self.ledger.orders(self.name), lambda found: not found or found[0].state in closed, _RETRAIN_S
        )
        if orders and orders[0].state not in closed:
            raise Unavailable(f"The retrain job did not end within {_RETRAIN_S} s; see the dashboard's Jobs tab.")
        return orders[0] if orders else None

    def _wait(self, look: Callable[[], _T], enough: Callable[[_T], bool], timeout_s: float) -> _T:
        deadline = time.monotonic() + timeout_s
        while not enough(found := look()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return found


class _PeakMemory:
    """Peak of the machine's used memory over what was used at the start, sampled each second."""

    def __enter__(self) -> "_PeakMemory":
        self._start = self._peak = psutil.virtual_memory().used
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _sample(self) -> None:
        while not self._stop.wait(1):
            self._peak = max(self._peak, psutil.virtual_memory().used)

    @property
    def gb(self) -> float:
        """Peak in gigabytes over the start."""
        return round(float(self._peak - self._start) / 1e9, 2)


def _change_day(settings: Settings) -> date | None:
    simulate = settings.use_case.simulate
    return date.fromisoformat(simulate.change_at) if simulate else None


def _simulate(settings: Settings, *, upto: date | None = None, since: date | None = None) -> dict[str, int]:
    from raysaas.ingest.simulate import simulate

    if settings.use_case.simulate is None:
        return {}
    out = Path(settings.data_dir or "") / settings.use_case.name
    return simulate(settings.use_case.simulate, out, settings.seed, upto=upto, since=since)


def _training_rows(settings: Settings) -> pa.Table:
    from raysaas.stores.tables import Tables

    return Tables(settings.storage).read(f"training.{settings.use_case.name}")


def _held_back(settings: Settings) -> pa.Table:
    """The newest training set's test rows as requests would come.

    A real or simulated stream in order of time, rows of one moment in no order. Where the demo plants the change
    itself, a sample in no order: then nothing but that change may move, seasons neither.
    """
    rows = _training_rows(settings)
    rows = rows.filter(pc.equal(rows["split"], "test")).sort_by("row_id")
    rows = rows.take(np.random.default_rng(settings.seed).permutation(rows.num_rows))
    if settings.use_case.change.what:
        return rows.slice(0, _PLANTED_ROWS)
    return rows.take(pc.array_sort_indices(rows["event_time"].combine_chunks()))  # stable


def _what_changed(settings: Settings) -> str:
    if settings.use_case.simulate:
        return f"months after {settings.use_case.simulate.change_at} arrive: new plan, new prices, new usage"
    what = settings.use_case.change.what
    return f"the same rows, changed: {what}" if what else "the stream goes on"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def _skew(found: Mapping[str, Any]) -> str:
    return f"{found['rate']:.1%} of the values differ in {found['decisions']} decisions" if found["decisions"] else ""


def _traffic(replayer: Replayer) -> dict[str, Any]:
    tally = replayer.tally
    return {
        "decisions": tally.decisions,
        "failed": tally.failed,
        "errors": dict(tally.errors),
        "decision_id": tally.last_decision,
    }
