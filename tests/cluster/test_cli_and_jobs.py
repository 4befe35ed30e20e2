"""The installation from outside: `raysaas` and `ray job` as real processes, the dashboard over HTTP, two heads."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pandas as pd
import psutil
import pytest
from tests.serving.conftest import make_bundle

from raysaas import cluster
from raysaas.records import Arm, OrderState, Release, Task
from raysaas.serving.deployment import Deployments, release_config
from raysaas.serving.spec import DEPLOYMENT, AppSpec
from raysaas.settings import Serve
from raysaas.stores.ledger import Ledger
from raysaas.stores.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAME = "telco_churn"
SMALL = ["model.num_trees=40", "model.families=[linear,trees]", "release.baseline_tolerance=0.2"]
ONE = [*SMALL, "model.families=[linear]"]  # where it matters what is decided about a version, not how it was fitted
Done = subprocess.CompletedProcess[str]


def customers(path: Path, num_rows: int = 1200) -> None:
    """A file of telco_churn's shape with a plain signal: short tenure and monthly contracts leave."""
    rng = np.random.default_rng(3)
    tenure, contract = rng.integers(0, 72, num_rows), rng.choice(["Month-to-month", "One year"], num_rows)
    words = {
        name: rng.choice(["Yes", "No"], num_rows)
        for name in (
            "Partner", "Dependents", "PhoneService", "MultipleLines", "OnlineSecurity", "OnlineBackup",
            "DeviceProtection", "TechSupport", "StreamingTV", "StreamingMovies", "PaperlessBilling",
        )
    }  # fmt: skip
    logit = 1.5 * (contract == "Month-to-month") - tenure / 15
    frame = pd.DataFrame(
        {
            "customerID": [f"C{i:05d}" for i in range(num_rows)], "gender": rng.choice(["Female", "Male"], num_rows),
            "SeniorCitizen": rng.integers(0, 2, num_rows), "tenure": tenure, "Contract": contract, **words,
            "InternetService": rng.choice(["DSL", "No"], num_rows), "PaymentMethod": "Mailed check",
            "MonthlyCharges": rng.uniform(20, 100, num_rows).round(2), "TotalCharges": (tenure * 50.0).round(2),
            "Churn": np.where(rng.random(num_rows) < 1 / (1 + np.exp(-logit)), "Yes", "No"),
        }
    )  # fmt: skip
    path.parent.mkdir(parents=True)
    frame.to_csv(path, index=False)


@pytest.fixture(scope="module")
def shop(platform: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Data, and how to call `raysaas` and `ray` against the session's head from a user's folder."""
    folder = tmp_path_factory.mktemp("shop")
    customers(folder / "data" / NAME / "Telco-Customer-Churn.csv")
    overrides = [f"use_case={NAME}", f"data_dir={folder / 'data'}"]

    def run(*command: str, home: Path = platform.home, cwd: Path = folder) -> Done:
        env = {**os.environ, "RAYSAAS_HOME": str(home), "RAY_AUTH_MODE": "token"}
        words = [str(BIN / command[0]), *command[1:]]
        return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)

    def result(*command: str, home: Path = platform.home) -> dict[str, Any]:
        """What a command prints with --json, which must be one object and nothing else."""
        done = run("raysaas", *command, "--json", home=home)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("\n") == 1, done.stdout
        return dict(json.loads(done.stdout))

    return SimpleNamespace(folder=folder, overrides=overrides, run=run, result=result, head=platform.head)


@pytest.fixture(scope="module")
def submitted(shop: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Results of jobs that `ray job submit` ran from a checkout, by job."""
    results = {}
    for job in ("ingest", "materialize", "train"):
        submit = ["job", "submit", "--address", shop.head.dashboard_url, "--working-dir", ".", "--log-style=record"]
        done = shop.run("ray", *submit, "--", "python", f"jobs/{job}.py", *shop.overrides, *SMALL, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        results[job] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"use_case"')))
    return results


@pytest.fixture(scope="module")
def deployed(shop: SimpleNamespace, submitted: dict[str, Any]) -> dict[str, Any]:
    """The trained champion, put in front of users through the Jobs API."""
    assert submitted["train"]["champion"], submitted["train"]
    done = shop.result("submit", "deploy", *shop.overrides)
    assert done["status"] == "SUCCEEDED", done
    return dict(json.loads(done["logs"].strip().splitlines()[-1]))


def test_submit_passes_on_the_job_s_own_sentence_and_exit_code(shop: SimpleNamespace) -> None:
    done = shop.run("raysaas", "submit", "train", "use_case=elec2")
    assert done.returncode == 65
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: Job raysubmit_")
    assert line.endswith(
        "ended as FAILED: table 'raw.elec2__market' has no rows: run the ingest job for this source first."
    )


def jobs(head: cluster.Head) -> list[dict[str, Any]]:
    """The dashboard's own list."""
    headers = {"Authorization": f"Bearer {cluster.token()}"}
    answer = httpx.get(f"{head.dashboard_url}/api/jobs/", headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return list(answer.json())


def test_jobs_run_by_rays_own_command(submitted: dict[str, dict[str, Any]]) -> None:
    assert submitted["ingest"]["rows"] == {"read": 1200, "accepted": 1200, "quarantined": 0}
    assert submitted["materialize"]["training_set"]["num_rows"] == 1200
    versions = submitted["train"]["versions"]
    assert [version["family"] for version in versions] == ["linear", "trees"]
    assert all(version["metrics"]["auc"] > 0.75 for version in versions)


def test_the_dashboard_lists_jobs_with_their_use_case(
    shop: SimpleNamespace, submitted: dict[str, Any], deployed: dict[str, Any]
) -> None:
    again = shop.result("run", "ingest", *shop.overrides)
    assert again["rows"]["accepted"] == 0
    listed = [job for job in jobs(shop.head) if (job["metadata"] or {}).get("use_case") == NAME]
    assert all(job["status"] == "SUCCEEDED" for job in listed), listed
    named = {(job["type"], job["metadata"]["job"]) for job in listed}
    by_ray = {("SUBMISSION", job) for job in submitted}
    assert named >= by_ray | {("SUBMISSION", "deploy"), ("DRIVER", "ingest")}


def test_keys_are_made_for_tenants_and_work_at_once(
    shop: SimpleNamespace, submitted: dict[str, Any], deployed: dict[str, Any]
) -> None:
    made = shop.result("key", "create", "--tenant", "acme", "--scope", "predict")
    assert (made["tenant"], made["scopes"]) == ("acme", ["predict"])
    row = json.dumps({"tenure": 1, "Contract": "Month-to-month"})
    answer = shop.result("predict", NAME, "--key", made["key"], "--instance", row)
    (decision,) = answer["decisions"]
    assert decision["score"] > 0.5
    assert decision["model_version"] == deployed["release"]["champion"]["version"]
    features = submitted["materialize"]["training_set"]["feature_service_hash"]
    assert deployed["release"]["champion"]["features"] == features, "it reads the features that it learnt from"
    refused = shop.run("raysaas", "predict", NAME, "--key", "rs_wrong", "--instance", row, "--json")
    assert refused.returncode == 65
    assert "key" in refused.stderr


def test_promote_and_rollback_switch_what_answers(
    shop: SimpleNamespace, submitted: dict[str, Any], deployed: dict[str, Any]
) -> None:
    first = deployed["release"]["champion"]["version"]
    other = next(v["version"] for v in submitted["train"]["versions"] if v["version"] != first)
    key = shop.result("key", "create", "--tenant", "globex")["key"]

    def answering() -> int:
        answer = shop.result("predict", NAME, "--key", key, "--instance", json.dumps({"tenure": 1}))
        return int(answer["decisions"][0]["model_version"])

    promoted = shop.result("promote", NAME, str(other), "--reason", "a test")
    assert (promoted["champion"], promoted["changed"]) == (other, f"champion {first} -> {other}")
    assert promoted["reason"].startswith("a test")
    assert answering() == other
    back = shop.result("rollback", NAME)
    assert (back["champion"], back["sequence"]) == (first, promoted["sequence"] + 1)
    assert answering() == first
    assert shop.result("status")["use_cases"][NAME]["champion"] == first
    unknown = shop.run("raysaas", "promote", NAME, "99", "--json")
    assert (unknown.returncode, unknown.stdout) == (65, "")
    assert "99" in unknown.stderr


def test_what_a_person_decided_holds_against_a_retraining(
    shop: SimpleNamespace, platform: SimpleNamespace, deployed: dict[str, Any]
) -> None:
    ledger, registry = Ledger(platform.settings.storage.ledger_url), Registry(platform.settings.storage)
    first, now = ledger.release(NAME), datetime.now(UTC)
    assert first is not None
    order = ledger.open_order(NAME, "drift", {"release": first.sequence}, now)
    assert order is not None
    kept = shop.result("run", "train", *shop.overrides, *ONE, "release.min_gain=1")["versions"][0]
    assert not kept["released"]
    promoted = shop.result("promote", NAME, str(kept["version"]), "--reason", "I know better")
    assert promoted["reason"].startswith("I know better (the gate had kept it back: auc ")

    anything = [*shop.overrides, *ONE, "release.min_gain=-1"]
    done = shop.result("run", "retrain", *anything)
    passed = done["versions"][-1]["version"]
    assert (done["order"], done["released"], done["champion"]["version"]) == (order.id, False, kept["version"])
    assert f"by hand meanwhile; promote it with `raysaas promote {NAME} {passed}`" in done["outcome"]
    assert (ledger.order(order.id).state, ledger.order(order.id).result) == (OrderState.done, done["outcome"])
    release, crowned = ledger.release(NAME), registry.champion(NAME)
    assert release is not None
    assert crowned is not None
    assert (release.champion.version, crowned.version) == (kept["version"], kept["version"])

    again = shop.result("run", "retrain", *anything)
    assert again["released"], "nobody changed anything since this job began"
    release = ledger.release(NAME)
    assert release is not None
    assert (release.champion.version, release.actor) == (again["versions"][-1]["version"], "retrain")


@pytest.mark.parametrize("path", ["/api/jobs/", "/api/serve/applications/", "/api/version", "/nodes?view=summary"])
def test_the_dashboard_refuses_who_has_no_token(platform: SimpleNamespace, path: str) -> None:
    url = platform.head.dashboard_url + path
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": "Bearer wrong"}).status_code == 403
    assert httpx.get(url, headers={"Authorization": f"Bearer {cluster.token()}"}).status_code == 200


def test_without_a_head_a_submission_asks_to_be_tried_later(shop: SimpleNamespace, tmp_path: Path) -> None:
    done = shop.run("raysaas", "submit", "train", *shop.overrides, home=tmp_path)
    assert done.returncode == 75
    assert done.stderr == "error: No head is running: start one with `raysaas up`.\n"
    assert shop.result("status", home=tmp_path)["head"] == {"running": False}
    assert shop.result("down", home=tmp_path) == {"stopped": False}


@pytest.fixture
def second(shop: SimpleNamespace, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Another head on the machine with a home of its own, as somebody else would run one."""
    home = tmp_path / "second"
    free = ["cluster.port=0", "cluster.dashboard_port=0", "serve.port=0", "cluster.object_store_mb=100"]
    told = shop.result("up", *free, home=home)
    try:
        yield SimpleNamespace(home=home, told=told, free=free)
    finally:
        shop.run("raysaas", "down", home=home)


def serve_something(home: Path, head: cluster.Head, out: Path, overrides: list[str]) -> None:
    """A tiny application, so that Serve's controller, HAProxy and a replica run on that head."""
    from raysaas import entry

    settings = entry.compose([f"home={home}", *overrides])
    arm = Arm(version=1, **make_bundle(out))
    release = Release(use_case="tiny", sequence=1, champion=arm, actor="t", reason="t", at=datetime.now(UTC))
    serve = Serve(port=head.port)
    spec = AppSpec(use_case="tiny", task=Task.binary, storage=settings.storage, serve=serve)
    app = {"name": "tiny", "route_prefix": "/tiny", "import_path": "raysaas.serving.app:application",
           "args": spec.to_dict(),
           "deployments": [{"name": DEPLOYMENT, "user_config": release_config(release)}]}  # fmt: skip
    Deployments(head.dashboard_url, home=home, cluster=settings.cluster, serve=serve).apply(app, timeout_s=90)


def belonging_to(head: cluster.Head) -> dict[int, str]:
    """Processes of a head by what the system tells of them: its id, address or folder in environment or arguments."""
    signs = (f"RAYSAAS_CLUSTER={head.id}", head.address, f"/tmp/raysaas-{head.id}")
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            words = [*process.cmdline(), *(f"{key}={value}" for key, value in process.environ().items())]
            if process.pid != os.getpid() and any(sign in word for word in words for sign in signs):
                # Ray's renamed processes have no readable environment: they are children of those that have.
                found |= {each.pid: " ".join(each.cmdline()) for each in [process, *process.children(recursive=True)]}
    return found


def test_up_is_idempotent_and_down_ends_its_own_head_only(
    shop: SimpleNamespace, second: SimpleNamespace, tmp_path: Path
) -> None:
    assert second.told["api_key"].startswith("rs_")
    again = shop.result("up", *second.free, home=second.home)
    assert again == {key: second.told[key] for key in ("url", "dashboard_url")}, "the key is printed once"
    head = cluster.Head(**shop.result("status", home=second.home)["head"])
    assert (head.url, head.dashboard_url) == (second.told["url"], second.told["dashboard_url"])
    assert head.address != shop.head.address

    serve_something(second.home, head, tmp_path / "bundle", second.free)
    assert httpx.get(f"{head.url}/tiny/health").status_code == 200
    ours, first = belonging_to(head), belonging_to(shop.head)
    for part in ("gcs_server", "raylet", "dashboard", "DashboardAgent", "haproxy", "ServeController", "Endpoint"):
        assert any(part in words for words in ours.values()), f"{part} is not among {sorted(ours.values())}"

    assert shop.result("down", home=second.home) == {"stopped": True}
    assert belonging_to(head) == {}
    assert [pid for pid in ours if psutil.pid_exists(pid)] == []
    assert not Path(f"/tmp/raysaas-{head.id}").exists()
    for url in (head.url, head.dashboard_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    still = belonging_to(shop.head)
    named = [pid for pid, words in first.items() if "ray::" not in words]
    assert [first[pid] for pid in named if pid not in still] == []
    assert shop.result("status")["head"]["id"] == shop.head.id


def test_a_head_that_died_is_started_again_and_its_key_stays_secret(
    shop: SimpleNamespace, second: SimpleNamespace
) -> None:
    head = cluster.Head(**json.loads((second.home / "head.json").read_text()))
    gcs = next(pid for pid, words in belonging_to(head).items() if "gcs_server" in words)
    psutil.Process(gcs).kill()
    deadline = time.monotonic() + 30
    while shop.result("status", home=second.home)["head"].get("id") and time.monotonic() < deadline:
        time.sleep(0.5)
    again = shop.result("up", *second.free, home=second.home)
    assert "api_key" not in again
    assert again["dashboard_url"] != head.dashboard_url
    assert belonging_to(head) == {}
