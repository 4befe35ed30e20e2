"""API keys: what a tenant holds, what is kept of it, and how a presented key becomes a tenant.

A key is shown once and never stored: the platform keeps its SHA-256 digest (a key has 256 random bits, so a slow hash
would add nothing). A lookup hashes first, so its time says nothing about how much of a guess was right.
"""

import hashlib
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

PREFIX = "rs_"
SCOPES = ("predict", "feedback", "events", "admin")
ID_DIGITS = 12  # of a digest: enough that no two keys of an installation share them


class KeyRow(Protocol):
    """One stored key, as the ledger keeps it. ``expires_at`` is UTC; None never expires."""

    @property
    def digest(self) -> str: ...

    @property
    def tenant(self) -> str: ...

    @property
    def scopes(self) -> Sequence[str]: ...

    @property
    def expires_at(self) -> datetime | None: ...


@dataclass(frozen=True, slots=True)
class Access:
    """What a key opens: one tenant, some scopes. ``expires`` is a Unix time in seconds, infinite for never."""

    tenant: str
    scopes: frozenset[str]
    expires: float = float("inf")

    def allows(self, scope: str) -> bool:
        """Whether a request of ``scope`` may pass; ``admin`` opens every scope."""
        return scope in self.scopes or "admin" in self.scopes


def new_key() -> tuple[str, str]:
    """Make a key of 32 random bytes; return it and the digest to store."""
    key = PREFIX + secrets.token_urlsafe(32)
    return key, digest(key.encode())


def digest(key: bytes) -> str:
    """Hex SHA-256 of a key: all that is kept of it."""
    return hashlib.sha256(key).hexdigest()


def key_id(digest: str) -> str:
    """The name by which people speak of a key."""
    return digest[:ID_DIGITS]


class KeyRing:
    """The known keys at one moment; replaced as a whole when the ledger changes."""

    def __init__(self, rows: Iterable[KeyRow] = ()) -> None:
        self._access = {row.digest: _access(row) for row in rows}

    def __len__(self) -> int:
        return len(self._access)

    def access(self, key: bytes, now: float) -> Access | None:
        """What ``key`` opens at ``now`` (Unix seconds); None when it is unknown or has expired."""
        found = self._access.get(hashlib.sha256(key).hexdigest())
        return found if found is not None and now < found.expires else None


def _access(row: KeyRow) -> Access:
    expires = row.expires_at.timestamp() if row.expires_at else float("inf")
    return Access(row.tenant, frozenset(row.scopes), expires)
