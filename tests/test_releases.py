"""The verbs of a release with a real registry and ledger, as far as they go without Serve."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raysaas import cli_release, lifecycle, releases
from raysaas.errors import Frozen, InputError, NotFound
from raysaas.records import Family, ModelVersion, Release
from raysaas.release import rollout
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.registry import Registry

WHO = {"actor": "ana", "reason": "holidays", "now": datetime(2026, 1, 1, tzinfo=UTC)}


def nothing(_: Release) -> None:
    """Serve takes every release."""


@pytest.fixture
def frozen(tmp_path: Path, make_settings) -> Settings:  # type: ignore[no-untyped-def]
    """Version 1 answers and nothing may change; version 2 passed the gate, which crowned it."""
    settings: Settings = make_settings("use_case=saas_churn")
    registry, ledger = Registry(settings.storage), Ledger(str(settings.storage.ledger_url))
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "manifest.json").write_text(str(number))
        digest = f"{number:064d}"
        registry.register("saas_churn", tmp_path / str(number), digest=digest, family=Family.trees, metrics={},
                          baseline={}, tags={})  # fmt: skip
    registry.judge("saas_churn", 1, released=True, reason="first")
    rollout.promote(ledger, "saas_churn", releases.arm_of(registry.version("saas_churn", 1)), nothing, **WHO)
    rollout.freeze(ledger, "saas_churn", nothing, **WHO)
    registry.judge("saas_churn", 2, released=True, reason="better")
    return settings


def test_a_retraining_of_a_frozen_use_case_leaves_its_version_aside_and_says_so(frozen: Settings) -> None:
    told = lifecycle._replaced(frozen, 2, since=2)
    assert not told["released"]
    assert told["outcome"].startswith("version 2 passed the gate but was not released: saas_churn is frozen since 2026")
    assert told["champion"]["version"] == 1
    crowned = Registry(frozen.storage).champion("saas_churn")
    assert isinstance(crowned, ModelVersion)
    assert crowned.version == 1, "the alias names who answers"


def test_a_person_is_told_the_same(frozen: Settings) -> None:
    with pytest.raises(Frozen, match=r"by ana \(holidays\): `raysaas unfreeze saas_churn` first"):
        releases.promote_version(frozen, 2, "bob", "now")
    assert [one["change"] for one in releases.history(frozen)] == ["frozen", "version 1 is the champion"]


def test_a_slip_changes_nothing_and_says_what_there_is(frozen: Settings) -> None:
    for verb in (releases.canary, releases.shadow):
        with pytest.raises(InputError, match="Version 1 is the champion of saas_churn: compare another version with"):
            verb(frozen, 1, actor="bob", reason="a slip")
    with pytest.raises(NotFound, match="There is no version 99 of 'saas_churn': the newest are 1, 2"):
        releases.promote_version(frozen, 99, "bob", "a slip")
    assert releases.sequence(frozen) == 2


def test_a_command_that_names_the_home_keeps_what_was_deployed(make_settings: Callable[..., Settings]) -> None:
    deployed = make_settings("use_case=saas_churn", "data_dir=/data", "serve.port=0")
    path = Path(deployed.storage.home) / "deployed" / "saas_churn.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(asdict(deployed)))
    where = f"home={deployed.storage.home}"
    assert cli_release._settings("saas_churn", (where,)) == deployed
    changed = cli_release._settings("saas_churn", (where, "release.max_errors=0.5"))
    assert changed == replace(deployed, release=replace(deployed.release, max_errors=0.5))
