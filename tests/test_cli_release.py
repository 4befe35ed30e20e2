"""The commands of releases as a person types them: the history as a table, refusals in one sentence."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raysaas import cli
from raysaas.records import Arm, Release
from raysaas.release import rollout
from raysaas.stores.ledger import Ledger

Outcome = tuple[int, str, str]
WHO = {"actor": "ana", "reason": "a long story", "now": datetime(2026, 1, 1, 12, 30, tzinfo=UTC)}


def nothing(_: Release) -> None:
    """Serve takes every release."""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("RAYSAAS_HOME", str(tmp_path))
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    one, two = (Arm(version=n, uri=f"/b/{n}", digest=str(n)) for n in (1, 2))
    rollout.promote(ledger, "saas_churn", one, nothing, **WHO)
    rollout.start_canary(ledger, "saas_churn", two, 0.05, nothing, **WHO)
    return ledger


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    def run(*words: str) -> Outcome:
        code = 0
        try:
            cli.main.main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


def test_the_history_is_a_table_and_json_says_all(call: Callable[..., Outcome], ledger: Ledger) -> None:
    code, out, _ = call("releases", "saas_churn")
    head, newest, first = out.splitlines()
    assert code == 0
    assert head.split() == ["sequence", "at", "actor", "change", "reason"]
    assert newest.split("  ")[0].strip() == "2"
    assert [part.strip() for part in first.split("  ") if part] == [
        "1", "2026-01-01 12:30:00 UTC", "ana", "version 1 is the champion", "a long story",
    ]  # fmt: skip
    assert head.index("change") == newest.index("canary of version 2 at 0.05") == first.index("version 1 is")
    code, out, _ = call("releases", "saas_churn", "--json")
    told = json.loads(out)
    assert (code, told["releases"][0]["variants"]) == (0, [{"name": "challenger", "version": 2, "share": 0.05}])
    assert told["comparison"] == {}
    status = json.loads(call("status", "--json")[1])["use_cases"]["saas_churn"]
    assert (status["shadow"], status["frozen"], status["tenants"]) == (None, False, {})
    assert status["variants"] == {"challenger": {"version": 2, "share": 0.05}}, "as the release commands tell it"
    assert (status["actor"], status["at"]) == ("ana", "2026-01-01 12:30:00+00:00")


def test_how_the_comparison_stands_is_shown(call: Callable[..., Outcome], ledger: Ledger) -> None:
    contests = {"challenger": {"version": 2, "outcomes": 812, "gain": 0.0123}}
    ledger.set_state("release/saas_churn", {"status": {"contests": contests}})
    line = (
        "challenger (version 2): +0.0123 AUC against the champion (+ is better), after 812 outcomes of its decisions\n"
    )
    assert call("releases", "saas_churn")[1].endswith(line)
    assert json.loads(call("releases", "saas_churn", "--json")[1])["comparison"]["contests"] == contests
    contests["challenger"] |= {"outcomes": 0, "gain": 0.0}
    ledger.set_state("release/saas_churn", {"status": {"contests": contests}})
    assert "challenger (version 2): no difference is known yet, after 0" in call("releases", "saas_churn")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["releases", "saas_chrun"], "saas_churn"),
        (["relases", "saas_churn"], "did you mean 'releases'?"),
        (["ab", "saas_churn", "b=2"], "NAME=VERSION:SHARE"),
        (["ab", "saas_churn", "b=two:0.1"], "'b=two:0.1' is no variant"),
        (["ab", "saas_churn", "b=2:0.1", "b=3:0.1"], "each variant once"),
        (["ab", "saas_churn", "b=v99:0.1", "data_dir=s3://bucket/x:1"], "There is no version 99"),
        (["promote", "saas_churn", "x"], "'x' is no version: expected its number, such as 4 or v4."),
        (["canary", "saas_churn", "v99"], "There is no version 99 of 'saas_churn': none was trained in /"),
        (["rollback", "saas_churn", "--tenant", "acme"], "Tenant 'acme' has no version of its own in saas_churn"),
        (["freeze", "telco_churn"], "telco_churn has no release yet"),
    ],
)
def test_a_slip_is_answered_in_one_sentence(
    call: Callable[..., Outcome], ledger: Ledger, words: list[str], said: str
) -> None:
    code, out, err = call(*words)
    assert (code, out) == (65, "")
    assert said in err
    assert "Traceback" not in err
    assert len(ledger.releases("saas_churn")) == 2


def test_a_frozen_use_case_says_by_whom_since_when_and_what_to_do(call: Callable[..., Outcome], ledger: Ledger) -> None:
    rollout.freeze(ledger, "saas_churn", nothing, **{**WHO, "reason": "holidays"})
    code, _, err = call("rollback", "saas_churn")
    assert code == 65
    assert "frozen since 2026-01-01 12:30 UTC by ana (holidays): `raysaas unfreeze saas_churn` first." in err
