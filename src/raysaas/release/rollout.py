"""Changing which versions answer: the change is recorded in the ledger first, then applied to Serve.

The ledger is the truth. A process killed between the two steps leaves a recorded release that :func:`reconcile`
applies; a version that Serve refuses for good (a corrupt bundle) is taken back by one more release.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from raysaas.errors import InputError, NotFound, Terminal, Unavailable
from raysaas.records import Arm, Release
from raysaas.stores.ledger import Ledger

Apply = Callable[[Release], None]


def promote(
    ledger: Ledger, use_case: str, candidate: Arm, apply: Apply, *, actor: str, reason: str, now: datetime,
    since: int | None = None,
) -> Release:  # fmt: skip
    """Make ``candidate`` the champion; challenger and shadow leave.

    An automatic release says the sequence ``since`` which its work began (0: none yet). Somebody who released meanwhile
    knew better: that release stays, and is returned.

    Promoting the version that answers alone already records nothing and only applies it again. Raises ``Unavailable``
    when somebody else released at the same time, and whatever ``apply`` raises; after a ``Terminal`` error the previous
    champion is back.
    """
    current = ledger.release(use_case)
    release = Release(
        use_case=use_case, sequence=_next(current), champion=candidate, actor=actor, reason=reason, at=now
    )
    moved = current is not None and current.sequence != since and _arms(current) != _arms(release)
    if current is not None and since is not None and moved:
        return current
    try:
        return _change(ledger, current, release, apply)
    except Unavailable:
        newest = ledger.release(use_case)
        if since is None or newest is None or newest in (current, release):
            raise
        return newest


def rollback(
    ledger: Ledger, use_case: str, apply: Apply, *, actor: str, reason: str, now: datetime,
) -> Release:  # fmt: skip
    """Undo the latest step: a running challenger or shadow leaves, else the champion before this one is back.

    Raises ``NotFound`` when there is nothing to go back to.
    """
    current = _current(ledger, use_case)
    if current.challenger or current.shadow:
        champion = current.champion
    else:
        line = champions(ledger.releases(use_case))
        if len(line) < 2:
            raise NotFound(f"{use_case} has no earlier champion than version {current.champion.version}: promote one.")
        champion = line[-2]
    release = _alone(current, champion, actor, reason, now)
    return _change(ledger, current, release, apply)


def start_canary(
    ledger: Ledger, use_case: str, challenger: Arm, share: float, apply: Apply, *,
    actor: str, reason: str, now: datetime,
) -> Release:  # fmt: skip
    """Let ``challenger`` answer ``share`` (over 0, under 1) of the traffic; call again to change the share."""
    if not (math.isfinite(share) and 0 < share < 1):
        raise InputError(f"challenger_share={share!r} is not allowed: expected a share between 0 and 1.")
    current = _current(ledger, use_case)
    release = replace(
        _alone(current, current.champion, actor, reason, now), challenger=challenger, challenger_share=share
    )
    return _change(ledger, current, release, apply)


def start_shadow(
    ledger: Ledger, use_case: str, shadow: Arm, apply: Apply, *, actor: str, reason: str, now: datetime,
) -> Release:  # fmt: skip
    """Let ``shadow`` see all requests and answer none."""
    current = _current(ledger, use_case)
    release = replace(_alone(current, current.champion, actor, reason, now), shadow=shadow)
    return _change(ledger, current, release, apply)


def reconcile(ledger: Ledger, use_case: str, apply: Apply) -> Release | None:
    """Bring Serve to the recorded release, after a crash or a restart; None when nothing was released yet."""
    release = ledger.release(use_case)
    if release is not None:
        apply(release)
    return release


def champions(releases: Sequence[Release]) -> list[Arm]:
    """The line of champions, oldest first, that roll-backs walk down; ``releases`` are newest first, as the ledger's.

    Going back to the champion before takes the later one off the line, so two roll-backs go back two champions.
    """
    line: list[Arm] = []
    for release in reversed(releases):
        champion = release.champion
        if len(line) > 1 and line[-2].digest == champion.digest:
            line.pop()
        elif not line or line[-1].digest != champion.digest:
            line.append(champion)
    return line


def _change(ledger: Ledger, current: Release | None, release: Release, apply: Apply) -> Release:
    if current is not None and _arms(current) == _arms(release):
        apply(current)
        return current
    ledger.set_release(release)
    try:
        apply(release)
    except Terminal as error:
        if current is None:
            raise
        back = replace(current, sequence=release.sequence + 1, at=release.at, actor=release.actor,
                       reason=f"Release {release.sequence} was refused: {error}")  # fmt: skip
        ledger.set_release(back)
        apply(back)
        raise
    return release


def _alone(current: Release, champion: Arm, actor: str, reason: str, now: datetime) -> Release:
    return Release(
        use_case=current.use_case, sequence=_next(current), champion=champion, actor=actor, reason=reason, at=now
    )


def _arms(release: Release) -> tuple[Arm, Arm | None, Arm | None, float]:
    return release.champion, release.challenger, release.shadow, release.challenger_share


def _next(current: Release | None) -> int:
    return current.sequence + 1 if current else 1


def _current(ledger: Ledger, use_case: str) -> Release:
    release = ledger.release(use_case)
    if release is None:
        raise NotFound(f"{use_case} has no release yet: promote a version first.")
    return release
