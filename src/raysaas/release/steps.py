"""What the next release is, given the one in force: one function per thing a person or the verdict may do; pure.

A step keeps what it does not speak of: the versions of single tenants stay through promotions, arms stay sticky while a
canary grows. Sequences grow by one, so a history read in their order tells everything that ever answered.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise

from raysaas.errors import InputError, NotFound
from raysaas.records import Arm, Release, Variant

CHALLENGER = "challenger"
_TAKEN = frozenset({"champion", "shadow", "tenant"})


@dataclass(frozen=True, slots=True, kw_only=True)
class By:
    """Who takes a step, why and when."""

    actor: str
    reason: str
    at: datetime


def promote(current: Release | None, use_case: str, arm: Arm, by: By) -> Release:
    """``arm`` is the champion; variants and shadow leave."""
    if current is None:
        return Release(use_case=use_case, sequence=1, champion=arm, actor=by.actor, reason=by.reason, at=by.at)
    return _alone(current, arm, by)


def promote_tenant(current: Release, tenant: str, arm: Arm, by: By) -> Release:
    """``arm`` answers whatever ``tenant`` asks."""
    return _next(current, by, tenants={**current.tenants, tenant: arm})


def canary(current: Release, arm: Arm, share: float, by: By) -> Release:
    """``arm`` answers ``share`` (over 0, under 1) of the traffic; the same arm again changes its share only."""
    _check_share("share", share)
    same = [(variant.name, variant.arm) for variant in current.variants] == [(CHALLENGER, arm)]
    variants = (Variant(name=CHALLENGER, arm=arm, share=share),)
    salt = current.experiment if same else str(current.sequence + 1)
    return _next(current, by, variants=variants, shadow=None, experiment=salt)


def ab(current: Release, variants: Mapping[str, tuple[Arm, float]], by: By) -> Release:
    """Each variant answers its share of the traffic, the champion the rest."""
    if not variants:
        raise InputError("An A/B test needs at least one variant: NAME=VERSION:SHARE.")
    for name, (_, share) in variants.items():
        if not name.isidentifier() or name in _TAKEN:
            taken = ", ".join(sorted(_TAKEN))
            raise InputError(f"{name!r} cannot name a variant: use letters and digits, and none of {taken}.")
        _check_share(f"The share of {name}", share)
    total = sum(share for _, share in variants.values())
    if total >= 1:
        raise InputError(f"The shares add up to {total:g}: leave the champion some of the traffic (under 1 in all).")
    named = tuple(Variant(name=name, arm=arm, share=share) for name, (arm, share) in variants.items())
    return _next(current, by, variants=named, shadow=None, experiment=str(current.sequence + 1))


def shadow(current: Release, arm: Arm, by: By) -> Release:
    """``arm`` sees all requests and answers none."""
    return _next(current, by, variants=(), experiment="", shadow=arm)


def rollback(history: Sequence[Release], by: By) -> Release:
    """Undo the latest step: running variants or a shadow leave, else the champion before this one is back.

    ``history`` is newest first, as the ledger gives it. Raises ``NotFound`` when there is nothing to go back to.
    """
    current = history[0]
    if current.variants or current.shadow:
        return _alone(current, current.champion, by)
    line = champions(history)
    if len(line) < 2:
        raise NotFound(f"{current.use_case} has no earlier champion than version {current.champion.version}: promote "
                       f"one with `raysaas promote {current.use_case} VERSION`.")  # fmt: skip
    return _alone(current, line[-2], by)


def rollback_tenant(history: Sequence[Release], tenant: str, by: By) -> Release:
    """Give a tenant back the version it had before, at last the champion. Raises ``NotFound`` when it has no own."""
    current = history[0]
    if tenant not in current.tenants:
        raise NotFound(f"Tenant {tenant!r} has no version of its own in {current.use_case}: the champion answers it.")
    line = _line([release.tenants.get(tenant) for release in history])
    others = {name: arm for name, arm in current.tenants.items() if name != tenant}
    before = line[-2] if len(line) > 1 else None
    return _next(current, by, tenants=others | ({tenant: before} if before else {}))


def freeze(current: Release, by: By, *, frozen: bool = True) -> Release:
    """Nothing changes, by nobody, until it is unfrozen."""
    return _next(current, by, frozen=frozen)


def next_stage(current: Release, stages: Sequence[float]) -> float | None:
    """The share after the canary's present one; None at the last stage below 1, after which only proof helps."""
    share = current.variants[0].share
    return next((stage for stage in stages if share < stage < 1), None)


def champions(history: Sequence[Release]) -> list[Arm]:
    """The line of champions, oldest first, that roll-backs walk down; ``history`` is newest first.

    Going back to the champion before takes the later one off the line, so two roll-backs go back two champions.
    """
    return [arm for arm in _line([release.champion for release in history]) if arm]


def answering(release: Release) -> tuple[object, ...]:
    """What of a release decides who answers: equal for two releases between which nothing changed."""
    return release.champion, release.variants, release.shadow, dict(release.tenants), release.frozen


def changes(history: Sequence[Release]) -> list[str]:
    """What each release changed, in words; newest first, as ``history``."""
    told = [_changed(before, after) for after, before in pairwise(history)]
    return [*told, f"version {history[-1].champion.version} is the champion"] if history else []


def _changed(before: Release, after: Release) -> str:
    told = []
    if before.champion != after.champion:
        told.append(f"champion {before.champion.version} -> {after.champion.version}")
    if before.variants != after.variants:
        told.append(_split(after) if after.variants else f"{_split(before)} ends")
    if before.shadow != after.shadow:
        told.append(f"version {after.shadow.version} shadows" if after.shadow else "shadow ends")
    for tenant in sorted({*before.tenants, *after.tenants}):
        was, now = before.tenants.get(tenant), after.tenants.get(tenant)
        if was != now:
            told.append(f"tenant {tenant}: {f'version {now.version}' if now else 'the champion'}")
    if before.frozen != after.frozen:
        told.append("frozen" if after.frozen else "unfrozen")
    return "; ".join(told) or "nothing"


def _split(release: Release) -> str:
    one = release.variants[0]
    if [variant.name for variant in release.variants] == [CHALLENGER]:
        return f"canary of version {one.arm.version} at {one.share:.4g}"
    return "A/B " + ", ".join(f"{one.name}: version {one.arm.version} at {one.share:.4g}" for one in release.variants)


def _line(arms: Sequence[Arm | None]) -> list[Arm | None]:
    line: list[Arm | None] = []
    for arm in reversed(arms):
        if len(line) > 1 and line[-2] == arm:
            line.pop()
        elif not line or line[-1] != arm:
            line.append(arm)
    return line


def _alone(current: Release, champion: Arm, by: By) -> Release:
    return _next(current, by, champion=champion, variants=(), shadow=None, experiment="")


def _next(current: Release, by: By, **changed: object) -> Release:
    step = {"sequence": current.sequence + 1, "actor": by.actor, "reason": by.reason, "at": by.at}
    return replace(current, **step, **changed)  # type: ignore[arg-type]


def _check_share(name: str, share: float) -> None:
    if not (math.isfinite(share) and 0 < share < 1):
        raise InputError(f"{name} {share!r} is not allowed: expected a number between 0 and 1.")
