"""Making API keys: the key is returned once, its digest is kept in the ledger."""

import re
from datetime import UTC, datetime, timedelta

from raysaas.errors import ConfigError
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import SCOPES, new_key

_NAME = re.compile(r"[A-Za-z0-9_][\w.@-]{0,63}")


def create(settings: Settings, tenant: str, scopes: list[str], days: int | None = None) -> str:
    """Make a key for ``tenant``, valid for ``days`` (None: for ever).

    Raises ConfigError for an unknown scope, a tenant that is no plain name, and days that are over.
    """
    if not _NAME.fullmatch(tenant):
        raise ConfigError(f"tenant {tenant!r} is not allowed: expected at most 64 letters, digits or . _ - @.")
    if days is not None and days < 1:
        raise ConfigError(f"days={days} is not allowed: expected 1 or more.")
    if unknown := set(scopes) - set(SCOPES):
        raise ConfigError(f"scope {', '.join(sorted(unknown))} does not exist: choose from {', '.join(SCOPES)}.")
    key, digest = new_key()
    expires = datetime.now(UTC) + timedelta(days=days) if days else None
    Ledger(settings.storage.ledger_url or "").add_key(digest, tenant, scopes, expires)
    return key


def first_key(settings: Settings) -> str | None:
    """An administrator's key for a fresh installation; None when there are keys already."""
    if Ledger(settings.storage.ledger_url or "").keys():
        return None
    return create(settings, "default", list(SCOPES))
