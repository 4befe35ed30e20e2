"""Questions people ask of an installation: what runs, and why a decision was what it was."""

from dataclasses import asdict
from typing import Any

from raysaas import cluster
from raysaas.errors import NotFound
from raysaas.records import OrderState
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger


def status(settings: Settings) -> dict[str, Any]:
    """The head's addresses, and per released use case its champion, newest drift window and open orders."""
    head, ledger = cluster.current(settings), Ledger(settings.storage.ledger_url or "")
    shown = asdict(head) if head else {"running": False}
    return {"head": shown, "use_cases": {name: _use_case(ledger, name) for name in ledger.released()}}


def _use_case(ledger: Ledger, name: str) -> dict[str, Any]:
    release, reports = ledger.release(name), ledger.drift(name, 1)
    pending = [o for o in ledger.orders(name) if o.state in (OrderState.open, OrderState.running)]
    return {
        "champion": release.champion.version if release else None,
        "sequence": release.sequence if release else None,
        "reason": release.reason if release else None,
        "drift": {"severity": reports[0].severity, "cause": list(reports[0].cause)} if reports else None,
        "open_orders": [o.reason for o in pending],
    }


def why(settings: Settings, decision_id: str) -> dict[str, Any]:
    """Inputs, version, lineage, release, outcome, and the score computed again from the recorded inputs.

    ``lineage`` is what the decision was made from, nearest first, as ``raysaas lineage`` knows it: model, release,
    training set, snapshots; ``files`` are the source files behind them. Looks in the journals first, then in Iceberg.
    Raises NotFound for an id that was never answered here.
    """
    from raysaas.lineage.provenance import Provenance, find_record
    from raysaas.models import bundle
    from raysaas.stores.registry import Registry

    storage, ledger = settings.storage, Ledger(settings.storage.ledger_url or "")
    decision = find_record(storage, ledger.released(), "decisions", "id", decision_id)
    if decision is None:
        raise NotFound(f"There is no decision {decision_id!r} in {settings.storage.home}; home=... names another one.")
    outcome = find_record(storage, [decision["use_case"]], "outcomes", "decision_id", decision_id)
    version = Registry(storage).version(decision["use_case"], decision["version"])
    model = bundle.load(version.uri, version.digest)
    again = model.predict(model.encoder.rows([decision["inputs"]], extra="ignore"))
    released = [r for r in ledger.releases(decision["use_case"]) if r.champion.version == version.version]
    known = Provenance(storage, decision["use_case"])
    made_from = known.made_from(known.add_decision(decision))
    return {
        "decision": decision,
        "outcome": outcome,
        "score_again": float(again.score[0]),
        "same_score": float(again.score[0]) == decision["score"],
        "version": asdict(version),
        "lineage": [record for record in made_from if record["kind"] != "file"],
        "files": [record["uri"] or record["id"] for record in made_from if record["kind"] == "file"],
        "releases": [{"sequence": r.sequence, "at": r.at, "actor": r.actor, "reason": r.reason} for r in released],
    }
