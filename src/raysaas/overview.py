"""Questions people ask of an installation: what runs, and why a decision was what it was."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from raysaas import cluster
from raysaas.errors import NotFound
from raysaas.records import OrderState
from raysaas.settings import Settings
from raysaas.stores import journal
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables


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

    Looks in the journals first, then in Iceberg. Raises NotFound for an id that was never answered here.
    """
    from raysaas.models import bundle
    from raysaas.stores.registry import Registry

    ledger = Ledger(settings.storage.ledger_url or "")
    decision = _record(settings, ledger, "decisions", "id", decision_id)
    if decision is None:
        raise NotFound(f"There is no decision {decision_id!r} in {settings.storage.home}; home=... names another one.")
    outcome = _record(settings, ledger, "outcomes", "decision_id", decision_id)
    version = Registry(settings.storage).version(decision["use_case"], decision["version"])
    model = bundle.load(version.uri, version.digest)
    again = model.predict(model.encoder.rows([decision["inputs"]], extra="ignore"))
    released = [r for r in ledger.releases(decision["use_case"]) if r.champion.version == version.version]
    return {
        "decision": decision,
        "outcome": outcome,
        "score_again": float(again.score[0]),
        "same_score": float(again.score[0]) == decision["score"],
        "version": asdict(version),
        "releases": [{"sequence": r.sequence, "at": r.at, "actor": r.actor, "reason": r.reason} for r in released],
    }


def _record(settings: Settings, ledger: Ledger, kind: str, key: str, value: str) -> dict[str, Any] | None:
    """The newest journaled or shipped record whose ``key`` equals ``value``."""
    root = Path(settings.storage.journal or "")
    for use_case in ledger.released():
        records, _ = journal.tail(root, use_case, kind, {})
        if found := [record for record in records if record[key] == value]:
            return dict(found[-1])
    tables, name = Tables(settings.storage), f"log.{kind}"
    if not tables.exists(name):
        return None
    rows = tables.read(name).filter(pc.field(key) == value).to_pylist()
    if not rows:
        return None
    row = dict(rows[-1])
    return row | {"inputs": json.loads(row["inputs"])} if "inputs" in row else row
