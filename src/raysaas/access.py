"""API keys of an installation: made, listed, rotated, revoked.

A key is returned once; the ledger keeps its digest, and people speak of it by its id, the first digits of that digest.
Replicas take every change within about a second.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from raysaas.errors import ConfigError, InputError
from raysaas.settings import Settings
from raysaas.stores.ledger import KeyRow, Ledger
from raysaas.tenancy.keys import ID_DIGITS, PREFIX, SCOPES, digest, key_id, new_key

_NAME = re.compile(r"[A-Za-z0-9_][\w.@-]{0,63}")
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS},64}}")
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_MAX_DAYS = 36_500
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def create(settings: Settings, tenant: str, scopes: list[str], days: int | None = None) -> str:
    """Make a key for ``tenant``, valid for ``days`` (None: for ever).

    Raises ConfigError for an unknown scope, a tenant that is no plain name, and days that no calendar has.
    """
    if not _NAME.fullmatch(tenant):
        raise ConfigError(f"tenant {tenant!r} is not allowed: expected at most 64 letters, digits or . _ - @.")
    if days is not None and not 1 <= days <= _MAX_DAYS:
        raise ConfigError(f"days={days} is not allowed: expected 1 to {_MAX_DAYS}.")
    if unknown := set(scopes) - set(SCOPES):
        raise ConfigError(f"scope {', '.join(sorted(unknown))} does not exist: choose from {', '.join(SCOPES)}.")
    key, kept = new_key()
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    _ledger(settings).add_key(kept, tenant, scopes, expires)
    return key


def first_key(settings: Settings) -> str | None:
    """An administrator's key for a fresh installation; None when there are keys already."""
    if _ledger(settings).keys():
        return None
    return create(settings, "default", list(SCOPES))


def listed(settings: Settings, tenant: str | None = None) -> list[dict[str, Any]]:
    """What is known of each key, of one tenant or of all, oldest first; never the key."""
    rows = sorted(_ledger(settings).keys(), key=lambda row: row.created_at)
    return [_shown(row) for row in rows if tenant in (None, row.tenant)]


def revoke(settings: Settings, name: str) -> dict[str, Any]:
    """Delete a key, given by its id or by the key itself; return what was known of it, its state ``revoked``.

    Raises InputError when there is no such key, or the id fits several.
    """
    ledger = _ledger(settings)
    row = _found(ledger, name)
    ledger.drop_key(row.digest)
    return {**_shown(row), "state": "revoked"}


def rotate(settings: Settings, name: str, overlap: str = "24h") -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Make a key with the tenant, the scopes and the lifetime of an old one, which lives on for ``overlap``.

    Returns the new key, what is known of it, and of the old one. Raises InputError as :func:`revoke` does and for a
    key that has expired, ConfigError for an overlap that is no span such as ``30m``.
    """
    ledger, now, span = _ledger(settings), datetime.now(UTC), _span(overlap)
    old = _found(ledger, name)
    if old.expires_at and old.expires_at <= now:
        raise InputError(f"Key {key_id(old.digest)} has expired: make a new one with `raysaas key create`.")
    key, kept = new_key()
    lifetime = old.expires_at - old.created_at if old.expires_at else None
    # The new one first: between the two steps both are good, never none.
    ledger.add_key(kept, old.tenant, list(old.scopes), now + lifetime if lifetime else None)
    ledger.end_key(old.digest, now + span)
    return key, _shown(_found(ledger, kept)), _shown(_found(ledger, old.digest))


def _ledger(settings: Settings) -> Ledger:
    return Ledger(settings.storage.ledger_url or "")


def _shown(row: KeyRow) -> dict[str, Any]:
    state = "expired" if row.expires_at and row.expires_at <= datetime.now(UTC) else "active"
    times = {"created": row.created_at.isoformat(), "expires": row.expires_at.isoformat() if row.expires_at else None}
    return {"id": key_id(row.digest), "tenant": row.tenant, "scopes": list(row.scopes), **times, "state": state}


def _found(ledger: Ledger, name: str) -> KeyRow:
    """The key that ``name`` means. A key itself is never repeated in a message, whole or in part."""
    by_key = name.startswith(PREFIX)
    sought = digest(name.encode()) if by_key else name.strip().lower()
    if not _ID.fullmatch(sought):
        raise InputError(f"That is no key's id: expected {ID_DIGITS} or more of 0-9 and a-f; see `raysaas key list`.")
    rows = ledger.keys()
    found = [row for row in rows if row.digest.startswith(sought)]
    if len(found) == 1:
        return found[0]
    what = "This key" if by_key else f"Key {sought[:ID_DIGITS]}"
    if found:
        raise InputError(f"{what}... fits {len(found)} keys: give more of its digits.")
    raise InputError(f"{what} does not exist; `raysaas key list` shows those that do.")


def _span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"overlap={text!r} is not allowed: expected a number and s, m, h or d, such as 24h.")
    return min(timedelta(**{_UNITS[match[2]]: int(match[1])}), timedelta(days=_MAX_DAYS))
