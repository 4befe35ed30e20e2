"""API keys as people manage them, and what a replica's gate makes of it: a real ledger, the real command."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raysaas import access
from raysaas.cli import main
from raysaas.errors import AccessDenied, ConfigError, InputError
from raysaas.serving.gate import Gate
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import digest, key_id


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings()


def identity(key: str) -> str:
    return key_id(digest(key.encode()))


def opens(settings: Settings, key: str, at: float | None = None) -> bool:
    """Whether a replica that reads the ledger now lets ``key`` predict, ``at`` seconds from now."""
    gate = Gate(Ledger(str(settings.storage.ledger_url)), "shop", 100.0, 100.0, lambda: time.time() + (at or 0.0))
    try:
        gate.admit(f"Bearer {key}".encode(), "predict")
    except AccessDenied:
        return False
    return True


def test_keys_are_listed_by_id_and_never_shown_again(settings: Settings) -> None:
    keys = [access.create(settings, tenant, ["predict"], days) for tenant, days in (("acme", None), ("umbrella", 3))]
    shown = access.listed(settings)
    assert [row["id"] for row in shown] == [identity(key) for key in keys]
    assert [(row["tenant"], row["scopes"], row["state"]) for row in shown] == [
        ("acme", ["predict"], "active"), ("umbrella", ["predict"], "active")]  # fmt: skip
    assert shown[0]["expires"] is None
    lifetime = datetime.fromisoformat(shown[1]["expires"]) - datetime.fromisoformat(shown[1]["created"])
    assert abs(lifetime - timedelta(days=3)) < timedelta(seconds=5)
    assert access.listed(settings, "acme") == shown[:1]
    told = json.dumps(shown)
    assert not [key for key in keys if key in told or key[3:20] in told]
    assert not [row for row in shown if any(digest(key.encode()) in json.dumps(row) for key in keys)]


def test_a_revoked_key_opens_nothing_and_others_stay(settings: Settings) -> None:
    leaked, other = (access.create(settings, "acme", ["predict"]) for _ in range(2))
    assert opens(settings, leaked)
    assert access.revoke(settings, leaked)["id"] == identity(leaked), "a leaked key may be given itself"
    assert (opens(settings, leaked), opens(settings, other)) == (False, True)
    access.revoke(settings, identity(other).upper())
    assert access.listed(settings) == []


def test_rotation_overlaps_and_keeps_tenant_scopes_and_lifetime(settings: Settings) -> None:
    old = access.create(settings, "acme", ["predict", "events"], days=10)
    new, made, ending = access.rotate(settings, identity(old), "30m")
    assert (made["id"], made["tenant"], made["scopes"]) == (identity(new), "acme", ["predict", "events"])
    left = datetime.fromisoformat(made["expires"]) - datetime.now(UTC)
    assert abs(left - timedelta(days=10)) < timedelta(seconds=5)
    assert ending["id"] == identity(old)
    assert [opens(settings, key) for key in (old, new)] == [True, True]
    assert [opens(settings, key, at=29 * 60) for key in (old, new)] == [True, True]
    assert [opens(settings, key, at=31 * 60) for key in (old, new)] == [False, True]


def test_rotation_never_makes_a_key_live_longer(settings: Settings) -> None:
    old = access.create(settings, "acme", ["predict"], days=1)
    _, _, ending = access.rotate(settings, identity(old), "9d")
    assert datetime.fromisoformat(ending["expires"]) < datetime.now(UTC) + timedelta(days=1, seconds=1)
    access.rotate(settings, identity(old), "0s")
    with pytest.raises(InputError, match="has expired"):
        access.rotate(settings, identity(old))


@pytest.mark.parametrize("name", ["", "nobody", "abc", "0123456789ab", "rs_" + "x" * 43, "%", "0" * 65])
def test_a_key_that_does_not_exist_is_one_sentence_without_it(settings: Settings, name: str) -> None:
    key = access.create(settings, "acme", ["predict"])
    with pytest.raises(InputError, match="raysaas key list") as told:
        access.revoke(settings, name)
    assert "rs_x" not in str(told.value)
    assert opens(settings, key)


@pytest.mark.parametrize("overlap", ["24", "h", "-1h", "1w", "1.5h", "9999999d"])
def test_an_overlap_that_is_no_span_changes_nothing(settings: Settings, overlap: str) -> None:
    key = access.create(settings, "acme", ["predict"])
    with pytest.raises(ConfigError, match="overlap="):
        access.rotate(settings, identity(key), overlap)
    assert len(access.listed(settings)) == 1


def test_days_that_no_calendar_has_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="expected 1 to"):
        access.create(settings, "acme", ["predict"], days=9_999_999)


def test_the_commands_print_one_object(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        code = 0
        try:
            main.main(["key", *words, "--json", f"home={home}"], standalone_mode=False)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capfd.readouterr()

    def told(*words: str) -> Any:
        code, out, err = run(*words)
        assert code == 0, err
        return json.loads(out)

    made = told("create", "--tenant", "acme", "--scope", "predict")
    rotated = told("rotate", made["id"], "--overlap", "1h")
    assert re.fullmatch(r"rs_[\w-]{43}", rotated["key"])
    assert rotated["old"]["id"] == made["id"]
    revoked = told("revoke", made["id"])["revoked"]
    assert (revoked["tenant"], revoked["state"]) == ("acme", "revoked")
    assert [row["id"] for row in told("list")["keys"]] == [rotated["id"]]
    code, out, err = run("revoke", made["id"])
    assert (code, out, err.count("\n")) == (65, "", 1)
    assert "does not exist" in err


def test_keys_and_limits_are_tables_with_zones_and_units(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> tuple[list[str], str]:
        main.main([*words, f"home={home}"], standalone_mode=False)
        told = capfd.readouterr()
        return told.out.splitlines(), told.err

    assert said("key", "list")[0] == ["There is no such key: `raysaas key create --tenant T` makes one."]
    said("key", "create", "--tenant", "acme", "--scope", "predict", "--scope", "feedback")
    head, line = said("key", "list")[0]
    assert head.split() == ["id", "tenant", "scopes", "state", "created", "expires"]
    assert re.fullmatch(r"[0-9a-f]{12}  acme    predict,feedback  active  [-0-9]{10} [:0-9]{8} UTC  never", line)
    limits, note = said("quota", "set", "saas_churn", "acme", "50")
    assert ([line.split() for line in limits[1:]], note) == ([["every", "other", "2000"], ["acme", "50"]], "")
    assert limits[0].split(maxsplit=1) == ["tenant", "requests a second"]
    note = said("quota", "set", "saas_churn", "amce", "5")[1]
    assert note == "note: tenant 'amce' has no API key; `raysaas key list` shows who has one.\n"
    assert said("quota", "unset", "saas_churn", "amce")[1] == ""
