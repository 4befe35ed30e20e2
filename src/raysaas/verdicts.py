"""Carries out what the release actor decided, with the settings that were deployed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysaas import entry, releases
from raysaas.records import Release
from raysaas.release.judge import ACTOR
from raysaas.stores.ledger import Ledger


def act(use_case: str, storage: Mapping[str, Any], action: Mapping[str, Any], sequence: int) -> Release | None:
    """Do ``action``, decided at release ``sequence``; somebody who released since then knew better.

    An empty action only brings the recorded release to Serve again.
    """
    settings = entry.saved(Path(storage["home"]) / "deployed" / f"{use_case}.json")
    current = Ledger(settings.storage.ledger_url or "").release(use_case)
    if current is None or (action and current.sequence != sequence):
        return current
    if not action:
        return releases.reconcile(settings)
    who = {"actor": ACTOR, "reason": str(action["reason"])}
    if action["kind"] == "roll_back":
        return releases.rollback(settings, **who)
    if action["kind"] == "advance":
        return releases.canary(settings, action["version"], share=action["share"], since=sequence, **who)
    return releases.promote(settings, releases.version_of(settings, action["version"]), since=sequence, **who)
