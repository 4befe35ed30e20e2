"""API keys: what is kept, what opens what, and when it stops."""

import re
from datetime import UTC, datetime
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from raysaas.tenancy.keys import SCOPES, Access, KeyRing, digest, new_key


def row(key_digest, tenant="acme", scopes=("predict",), expires_at=None):
    return SimpleNamespace(digest=key_digest, tenant=tenant, scopes=scopes, expires_at=expires_at)


def test_key_is_long_random_and_not_kept():
    pairs = [new_key() for _ in range(100)]
    assert len({key for key, _ in pairs}) == 100
    for key, kept in pairs:
        assert re.fullmatch(r"rs_[A-Za-z0-9_-]{43}", key)
        assert re.fullmatch(r"[0-9a-f]{64}", kept)
        assert kept == digest(key.encode())


@given(st.binary(max_size=100))
def test_only_the_key_itself_opens(guess):
    key, kept = new_key()
    ring = KeyRing([row(kept)])
    assert ring.access(key.encode(), 0.0) == Access("acme", frozenset({"predict"}))
    assert ring.access(guess, 0.0) is None
    assert ring.access(key.encode()[:-1], 0.0) is None
    assert ring.access(kept.encode(), 0.0) is None


def test_expiry_is_exact_and_rotation_may_overlap():
    (old, old_digest), (new, new_digest) = new_key(), new_key()
    end = datetime(2026, 1, 1, tzinfo=UTC)
    ring = KeyRing([row(old_digest, expires_at=end), row(new_digest)])
    assert ring.access(old.encode(), end.timestamp() - 0.001).tenant == "acme"
    assert ring.access(new.encode(), end.timestamp() - 0.001).tenant == "acme"
    assert ring.access(old.encode(), end.timestamp()) is None
    assert ring.access(new.encode(), end.timestamp() + 1e9).tenant == "acme"


def test_admin_opens_all_others_only_their_own():
    assert all(Access("t", frozenset({"admin"})).allows(scope) for scope in SCOPES)
    assert [s for s in SCOPES if Access("t", frozenset({"feedback"})).allows(s)] == ["feedback"]
