"""One decision, explained from the records: what went in, what answered and why that, what became of it.

Nothing here is kept for this purpose; the score is computed again from the recorded inputs and the verified bundle.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raysaas.errors import CorruptBundle, NotFound
from raysaas.lineage.provenance import Provenance, as_time, find_record
from raysaas.models import bundle
from raysaas.models.rounding import rounding
from raysaas.records import ModelVersion, Release, plain
from raysaas.settings import Settings
from raysaas.stores import matured
from raysaas.stores.ledger import Ledger
from raysaas.stores.registry import Registry


def explain(settings: Settings, decision_id: str) -> dict[str, Any]:
    """Everything that is known of a decision, as plain values.

    ``decision`` as it was recorded; ``outcome`` the one that counts, ``outcomes`` every report of one, corrections
    included; ``shadows`` what shadow versions would have answered; ``version`` and ``training_set``; ``release`` that
    was in force and ``releases``, all that ever named the version; ``lineage`` and ``files`` as ``raysaas lineage``
    knows them. ``score_again`` is the CPU's; it is None, and ``not_again`` says why, where the bundle cannot be used.
    Where a GPU computed another one ``rounding`` says how far apart they are, and whether rounding explains that.
    Looks in the journals first, then in Iceberg. Raises NotFound for an id that was never answered here.
    """
    storage, ledger = settings.storage, Ledger(settings.storage.ledger_url or "")
    decision = find_record(storage, ledger.released(), "decisions", "id", decision_id)
    if decision is None:
        form = "" if _like_an_id(decision_id) else " An id has 32 digits, each one of 0-9 or a-f."
        raise NotFound(
            f"There is no decision {decision_id[:40]!r} in {storage.home}; home=... names another one.{form}"
        )
    use_case, number = decision["use_case"], decision["version"]
    registry, told = Registry(storage), matured.reports(storage, decision)
    version = registry.version(use_case, number)
    releases = [release for release in ledger.releases(use_case) if roles(release, number)]
    known = Provenance(storage, use_case)
    made_from = known.made_from(known.add_decision(decision))
    return {
        "decision": decision,
        "outcome": told[-1] if told else None,
        "outcomes": told,
        "shadows": matured.shadows(storage, decision),
        **_again(version, decision),
        "version": asdict(version),
        "training_set": _training_set(registry, use_case, number),
        "release": _in_force(ledger.releases(use_case), decision),
        "releases": [_told(release, number) for release in releases],
        "lineage": [record for record in made_from if record["kind"] != "file"],
        "files": [record["uri"] or record["id"] for record in made_from if record["kind"] == "file"],
    }


def _like_an_id(text: str) -> bool:
    return len(text) == 32 and set(text) <= set("0123456789abcdef")


def _again(version: ModelVersion, decision: Mapping[str, Any]) -> dict[str, Any]:
    """Score and label computed once more; a row's score does not depend on the rows it was answered with."""
    try:
        model = bundle.load(version.uri, version.digest)
    except (CorruptBundle, NotFound) as error:
        return {"score_again": None, "label_again": None, "same_score": False, "not_again": str(error)}
    again = model.predict(model.encoder.rows([decision["inputs"]], extra="ignore"))
    score, label = float(again.score[0]), again.label[0] if again.label else None
    same = score == decision["score"] and label == decision["label"]
    found = {"score_again": score, "label_again": label, "same_score": same}
    if same or not decision.get("backend"):
        return found
    apart = rounding(again, decision["score"], decision["label"], model.manifest["target"])
    return found | {"rounding": asdict(apart)}


def _training_set(registry: Registry, use_case: str, number: int) -> dict[str, Any] | None:
    try:
        return plain(registry.training_set(use_case, number))
    except NotFound:
        return None


def roles(release: Release, number: int) -> list[str]:
    """What a version is in a release: champion, NAME at SHARE, shadow, of tenant NAME."""
    found = ["champion"] if release.champion.version == number else []
    found += [f"{one.name} at {one.share:.0%}" for one in release.variants if one.arm.version == number]
    found += ["shadow"] if release.shadow and release.shadow.version == number else []
    return found + [f"of tenant {tenant}" for tenant, arm in release.tenants.items() if arm.version == number]


def _in_force(releases: list[Release], decision: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest release before the decision that names its version: a replica takes a moment to switch."""
    moment, number = as_time(decision["time"]), decision["version"]
    found = [release for release in releases if release.at <= moment and roles(release, number)]
    return _told(max(found, key=lambda one: one.sequence), number) if found else None


def _told(release: Release, number: int) -> dict[str, Any]:
    return {"sequence": release.sequence, "at": release.at, "actor": release.actor, "reason": release.reason,
            "roles": roles(release, number)}  # fmt: skip
