"""Changing which versions answer: the change is recorded in the ledger first, then applied to Serve.

The ledger is the truth. A process killed between the two leaves a recorded release that :func:`reconcile` applies; a
version that Serve refuses for good (a corrupt bundle) is taken back by one more release. What the next release is, is
said in ``steps``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime

from raysaas.errors import Frozen, NotFound, Terminal, Unavailable
from raysaas.records import Arm, Release
from raysaas.release import steps
from raysaas.release.steps import By
from raysaas.stores.ledger import Ledger

Apply = Callable[[Release], None]


def promote(
    ledger: Ledger, use_case: str, candidate: Arm, apply: Apply, *, actor: str, reason: str, now: datetime,
    since: int | None = None, tenant: str | None = None,
) -> Release:  # fmt: skip
    """Make ``candidate`` the champion; variants and shadow leave. With ``tenant`` it answers that tenant alone.

    An automatic release says the sequence ``since`` which its work began (0: none yet). Somebody who released meanwhile
    knew better: that release stays, and is returned.

    Promoting the version that answers alone already records nothing and only applies it again. Raises ``Unavailable``
    when somebody else released at the same time, and whatever ``apply`` raises; after a ``Terminal`` error the previous
    release is back.
    """
    by = By(actor=actor, reason=reason, at=now)
    if tenant is not None:
        return _change(ledger, steps.promote_tenant(_current(ledger, use_case), tenant, candidate, by), apply)
    release = steps.promote(ledger.release(use_case), use_case, candidate, by)
    return release_since(ledger, release, apply, since)


def release_since(ledger: Ledger, release: Release, apply: Apply, since: int | None) -> Release:
    """Record and apply ``release``, unless somebody released after the sequence ``since``: then theirs is returned."""
    current = ledger.release(release.use_case)
    changed = current is not None and steps.answering(current) != steps.answering(release)
    if current is not None and since is not None and current.sequence != since and changed:
        return current
    try:
        return _change(ledger, release, apply)
    except Unavailable:
        newest = ledger.release(release.use_case)
        if since is None or newest is None or newest in (current, release):
            raise
        return newest


def rollback(
    ledger: Ledger, use_case: str, apply: Apply, *, actor: str, reason: str, now: datetime, tenant: str | None = None,
) -> Release:  # fmt: skip
    """Undo the latest step: running variants or a shadow leave, else the champion before this one is back.

    With ``tenant`` that tenant gets what it had before. Raises ``NotFound`` when there is nothing to go back to.
    """
    _current(ledger, use_case)
    history, by = ledger.releases(use_case), By(actor=actor, reason=reason, at=now)
    release = steps.rollback_tenant(history, tenant, by) if tenant is not None else steps.rollback(history, by)
    return _change(ledger, release, apply)


def start_canary(
    ledger: Ledger, use_case: str, challenger: Arm, share: float, apply: Apply, *,
    actor: str, reason: str, now: datetime, since: int | None = None,
) -> Release:  # fmt: skip
    """Let ``challenger`` answer ``share`` of the traffic; call again to change the share. ``since`` as in promote."""
    by = By(actor=actor, reason=reason, at=now)
    return release_since(ledger, steps.canary(_current(ledger, use_case), challenger, share, by), apply, since)


def start_shadow(
    ledger: Ledger, use_case: str, shadow: Arm, apply: Apply, *,
    actor: str, reason: str, now: datetime, since: int | None = None,
) -> Release:  # fmt: skip
    """Let ``shadow`` see all requests and answer none. ``since`` as in promote."""
    by = By(actor=actor, reason=reason, at=now)
    return release_since(ledger, steps.shadow(_current(ledger, use_case), shadow, by), apply, since)


def start_ab(
    ledger: Ledger, use_case: str, variants: Mapping[str, tuple[Arm, float]], apply: Apply, *,
    actor: str, reason: str, now: datetime,
) -> Release:  # fmt: skip
    """Let each named variant answer its share of the traffic, and the champion the rest."""
    by = By(actor=actor, reason=reason, at=now)
    return _change(ledger, steps.ab(_current(ledger, use_case), variants, by), apply)


def freeze(
    ledger: Ledger, use_case: str, apply: Apply, *, actor: str, reason: str, now: datetime, frozen: bool = True,
) -> Release:  # fmt: skip
    """Let nothing change, by nobody, until it is unfrozen (``frozen=False``)."""
    by = By(actor=actor, reason=reason, at=now)
    return _change(ledger, steps.freeze(_current(ledger, use_case), by, frozen=frozen), apply)


def reconcile(ledger: Ledger, use_case: str, apply: Apply, *, now: datetime) -> Release | None:
    """Bring Serve to the recorded release, after a crash or a restart; None when nothing was released yet.

    One that Serve refuses for good is taken back, as it would have been by whoever recorded it.
    """
    latest = ledger.releases(use_case, 2)
    if latest:
        _apply(ledger, replace(latest[0], at=now), latest[1] if len(latest) > 1 else None, apply)
    return ledger.release(use_case)


def _change(ledger: Ledger, release: Release, apply: Apply) -> Release:
    current = ledger.release(release.use_case)
    if current is not None and steps.answering(current) == steps.answering(release):
        apply(current)
        return current
    if current is not None and current.frozen and release.frozen:
        raise Frozen(
            f"{current.use_case} is frozen since {current.at:%Y-%m-%d %H:%M} UTC by {current.actor} "
            f"({current.reason}): `raysaas unfreeze {current.use_case}` first."
        )
    ledger.set_release(release)
    _apply(ledger, release, current, apply)
    return release


def _apply(ledger: Ledger, release: Release, before: Release | None, apply: Apply) -> None:
    """Bring Serve to ``release``; after a refusal for good ``before`` is recorded again, and the refusal raised."""
    try:
        apply(release)
    except Terminal as error:
        if before is None:
            raise
        back = replace(before, sequence=release.sequence + 1, at=release.at, actor=release.actor,
                       reason=f"Release {release.sequence} was refused: {error}")  # fmt: skip
        ledger.set_release(back)
        apply(back)
        raise


def _current(ledger: Ledger, use_case: str) -> Release:
    release = ledger.release(use_case)
    if release is None:
        raise NotFound(f"{use_case} has no release yet: promote a version first.")
    return release
