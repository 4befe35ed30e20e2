"""Questions people ask of an installation: what runs, and why a decision was what it was."""

from dataclasses import asdict
from typing import Any

from raysaas import cluster
from raysaas.records import OrderState
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
    return {
        "champion": release.champion.version if release else None,
        "variants": {one.name: one.arm.version for one in release.variants} if release else {},
        "shadow": release.shadow.version if release and release.shadow else None,
        "frozen": release.frozen if release else False,
        "sequence": release.sequence if release else None,
        "reason": release.reason if release else None,
        "drift": {"severity": reports[0].severity, "cause": list(reports[0].cause)} if reports else None,
        "open_orders": [o.reason for o in pending],
    }


def why(settings: Settings, decision_id: str) -> dict[str, Any]:
    """Inputs, version, lineage, release, outcomes, and the score computed again: see :func:`decision.explain`."""
    from raysaas.lineage.decision import explain

    return explain(settings, decision_id)
