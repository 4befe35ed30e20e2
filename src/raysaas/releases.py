"""The verbs of a release, each by somebody for a reason: promote, roll back, canary, shadow, A/B, freeze, introduce.

``release/`` decides and records; this composes it with the registry, whose alias ``champion`` always names the version
that answers, and with Serve.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from raysaas import cluster
from raysaas.errors import InputError, NotFound
from raysaas.lineage.runs import emits
from raysaas.records import Arm, ModelVersion, Release
from raysaas.release import rollout, steps
from raysaas.settings import Settings, Strategy
from raysaas.stores.ledger import Ledger

R = TypeVar("R")
APPLICATION = "raysaas.lifecycle:application"


def introduce(settings: Settings, version: ModelVersion, *, actor: str, since: int | None = None) -> Release:
    """Bring a version that passed the gate before users by ``release.strategy``; the first one answers at once.

    A version that is in the release already changes nothing: the recorded release is applied again.
    """
    policy, current = settings.release, _ledger(settings).release(settings.use_case.name)
    who = {"actor": actor, "reason": version.reason, "since": since}
    if current is not None and version.version in {arm.version for arm in replace(current, tenants={}).arms()}:
        apply(settings, current)
        return current
    if current is None or policy.strategy is Strategy.blue_green:
        return promote(settings, version, actor=actor, reason=version.reason, since=since)
    if policy.strategy is Strategy.shadow:
        return _step(settings, rollout.start_shadow, arm_of(version), **who)
    return _step(settings, rollout.start_canary, arm_of(version), min(policy.stages[0], _MAX_SHARE), **who)


_VERSIONS_TOLD = 8
_MAX_SHARE = 0.99  # a canary of all the traffic would leave nobody to compare with


def promote(
    settings: Settings, version: ModelVersion, *, actor: str, reason: str, since: int | None = None,
    tenant: str | None = None,
) -> Release:  # fmt: skip
    """Make a version the champion that answers, or a tenant's own; ``since`` as in ``rollout.promote``."""
    told: dict[str, Any] = {"actor": actor, "reason": reason, "since": since, "tenant": tenant}
    return _step(settings, rollout.promote, arm_of(version), **told)


def promote_version(settings: Settings, number: int, actor: str, reason: str, tenant: str | None = None) -> Release:
    """Promote by number, by hand: the ledger remembers who did it, and what the gate had said against it."""
    found = version_of(settings, number)
    if not found.released:
        reason += f" (the gate had kept it back: {found.reason.removeprefix('Refused: ') or 'it was never judged'})"
    return promote(settings, found, actor=actor, reason=reason, tenant=tenant)


@emits("rollback")
def rollback(settings: Settings, *, actor: str, reason: str, tenant: str | None = None) -> Release:
    """End what is being compared, else return to the champion before; with ``tenant`` to that one's before."""
    return _change(settings, rollout.rollback, actor=actor, reason=reason, tenant=tenant)


def canary(
    settings: Settings, number: int, *, actor: str, reason: str, share: float | None = None, since: int | None = None,
) -> Release:  # fmt: skip
    """Let a version answer ``share`` of the traffic, by default that of the first stage."""
    first = min(settings.release.stages[0], _MAX_SHARE)
    arm = _challenger(settings, number)
    who = {"actor": actor, "reason": reason, "since": since}
    return _step(settings, rollout.start_canary, arm, first if share is None else share, **who)


def shadow(settings: Settings, number: int, *, actor: str, reason: str) -> Release:
    """Let a version see all requests and answer none."""
    return _step(settings, rollout.start_shadow, _challenger(settings, number), actor=actor, reason=reason)


def ab(settings: Settings, variants: Mapping[str, tuple[int, float]], *, actor: str, reason: str) -> Release:
    """Compare versions by name: ``variants`` maps each to its version and its share of the traffic."""
    arms = {name: (arm_of(version_of(settings, number)), share) for name, (number, share) in variants.items()}
    return _step(settings, rollout.start_ab, arms, actor=actor, reason=reason)


def freeze(settings: Settings, *, actor: str, reason: str, frozen: bool = True) -> Release:
    """Let nothing change until ``frozen=False``."""
    return _step(settings, rollout.freeze, actor=actor, reason=reason, frozen=frozen)


def reconcile(settings: Settings) -> Release | None:
    """Bring Serve to the recorded release, or back from one that it refuses."""
    return _change(settings, rollout.reconcile)


def history(settings: Settings) -> list[dict[str, Any]]:
    """Every release, newest first: sequence, when, who, what changed, why, and what answers since."""
    releases = _ledger(settings).releases(settings.use_case.name)
    return [_told(release, change) for release, change in zip(releases, steps.changes(releases), strict=True)]


def sequence(settings: Settings) -> int:
    """The number of the release in force; 0 when nothing was released yet."""
    release = _ledger(settings).release(settings.use_case.name)
    return release.sequence if release else 0


def comparison(settings: Settings) -> dict[str, Any]:
    """How the versions that are compared now stand, as the release actor last saved it; empty when none are."""
    name = settings.use_case.name
    status = (_ledger(settings).get_state(f"release/{name}") or {}).get("status", {})
    return dict(status) if status.get("contests") else {}


def answering(release: Release) -> dict[str, Any]:
    """Which versions answer, by sequence: champion, variants with their shares, shadow, tenants' own; and if frozen."""
    return {
        "sequence": release.sequence,
        "champion": release.champion.version,
        "variants": {one.name: {"version": one.arm.version, "share": one.share} for one in release.variants},
        "shadow": release.shadow.version if release.shadow else None,
        "tenants": {tenant: arm.version for tenant, arm in release.tenants.items()},
        "frozen": release.frozen,
    }


def _told(release: Release, change: str) -> dict[str, Any]:
    variants = [{"name": v.name, "version": v.arm.version, "share": v.share} for v in release.variants]
    by = {"at": release.at, "actor": release.actor, "change": change, "reason": release.reason}
    return {"sequence": release.sequence, **by, **answering(release), "variants": variants}


def apply(settings: Settings, release: Release) -> None:
    """Bring Serve to a recorded release: a message where the application runs, else a deployment."""
    from raysaas.serving.deployment import apply_release

    head = cluster.head(settings)
    body = asdict(settings)
    body["train"]["as_of"] = None  # the retraining jobs it orders take the newest data
    with open(_saved(settings), "w", opener=partial(os.open, mode=0o600)) as file:  # a source's URL may hold a password
        json.dump(body, file)
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    apply_release(settings, release, APPLICATION, dashboard_url=head.dashboard_url, port=head.port)
    _ledger(settings).set_state(f"applied/{release.use_case}", {"sequence": release.sequence})


def arm_of(version: ModelVersion) -> Arm:
    """A model version as an arm of a release."""
    return Arm(version=version.version, uri=version.uri, digest=version.digest, features=version.features)


@emits("deploy")
def _step(settings: Settings, verb: Callable[..., Release], *args: Any, **told: Any) -> Release:
    return _change(settings, verb, *args, **told)


def _change(settings: Settings, verb: Callable[..., R], *args: Any, **told: Any) -> R:
    ledger, name = _ledger(settings), settings.use_case.name
    try:
        return verb(ledger, name, *args, apply=partial(apply, settings), now=datetime.now(UTC), **told)
    finally:  # the gate may have crowned a version that Serve, or a person, refused
        _crown(settings, ledger.release(name))


def _crown(settings: Settings, release: Release | None) -> None:
    from raysaas.stores.registry import Registry

    registry, name = Registry(settings.storage), settings.use_case.name
    crowned = registry.champion(name)
    if release is not None and (crowned is None or crowned.version != release.champion.version):
        with suppress(NotFound):  # a version that another registry knows
            registry.crown(name, registry.version(name, release.champion.version).version)


def version_of(settings: Settings, number: int) -> ModelVersion:
    """A registered version, or NotFound, which names those there are."""
    from raysaas.stores.registry import Registry

    registry, name = Registry(settings.storage), settings.use_case.name
    try:
        return registry.version(name, number)
    except NotFound as error:
        known = sorted(one.version for one in registry.versions(name))[-_VERSIONS_TOLD:]
        home = settings.storage.home
        there = f"the newest are {', '.join(map(str, known))}" if known else f"none was trained in {home}"
        raise NotFound(f"There is no version {number} of {name!r}: {there}.") from error


def _challenger(settings: Settings, number: int) -> Arm:
    """The version as an arm to compare with the champion, which it must not be."""
    arm, release = arm_of(version_of(settings, number)), _ledger(settings).release(settings.use_case.name)
    if release is not None and release.champion.version == number:
        raise InputError(f"Version {number} is the champion of {release.use_case}: compare another version with it.")
    return arm


def _saved(settings: Settings) -> Path:
    """Where the settings of a deployment are kept, for what it will order: retraining jobs, releases."""
    path = Path(settings.storage.home) / "deployed" / f"{settings.use_case.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _ledger(settings: Settings) -> Ledger:
    return Ledger(settings.storage.ledger_url or "")
