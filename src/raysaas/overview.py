"""Questions people ask of an installation: what runs, and why a decision was what it was."""

from dataclasses import asdict
from typing import Any

from raysaas import cluster, releases
from raysaas.records import DriftReport, OrderState
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger


def status(settings: Settings) -> dict[str, Any]:
    """The head's addresses, and per released use case who answers, its newest drift window and open orders."""
    head, ledger = cluster.current(settings), Ledger(settings.storage.ledger_url or "")
    shown = asdict(head) if head else {"running": False}
    return {"head": shown, "use_cases": {name: _use_case(ledger, name) for name in ledger.released()}}


def _use_case(ledger: Ledger, name: str) -> dict[str, Any]:
    release, reports = ledger.release(name), ledger.drift(name, 1)
    pending = [o for o in ledger.orders(name) if o.state in (OrderState.open, OrderState.running)]
    told = {} if release is None else {**releases.answering(release), "reason": release.reason, "actor": release.actor,
                                       "at": release.at}  # fmt: skip
    return {**told, "drift": _drift(reports[0]) if reports else None, "open_orders": [o.reason for o in pending]}


def _drift(report: DriftReport) -> dict[str, Any]:
    """What the newest full window showed. It may be of a version that answers no more: its number stands with it."""
    return {"severity": report.severity, "cause": list(report.cause), "version": report.version,
            "window": report.window, "ended_at": report.ended_at}  # fmt: skip


def why(settings: Settings, decision_id: str) -> dict[str, Any]:
    """Inputs, version, lineage, release, outcomes, and the score computed again: see :func:`decision.explain`."""
    from raysaas.lineage.decision import explain

    return explain(settings, decision_id)
