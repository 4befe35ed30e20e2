"""`raysaas demo` on real data, as a process without a terminal: a story that ends well and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest

# AUC of the champion on held-back rows: at least the lower bound (FACTS.md), and below the upper one, which only a leak
# of later rows or of the label reaches.
YARDSTICKS = {"telco_churn": (0.83, 0.88), "cdnow": (0.75, 0.80)}
# The first is told to stay up and ended by Ctrl-C; the second leaves out what does not depend on the data.
WORDS = {
    "telco_churn": ["--keep"],
    "cdnow": ["--stop", "--skip", "sweep", "--skip", "federate", "model.families=[linear,trees]"],
}
SMALLER = ["tune.num_samples=2", "federated.rounds=1", "train.epochs=12", "serve.segment_age_s=1"]
STEPS = {
    "start",
    "ingest",
    "materialize",
    "train",
    "sweep",
    "federate",
    "deploy",
    "traffic",
    "change",
    "retrain",
    "watch",
}
FAMILIES = {"telco_churn": ["linear", "network", "trees", "network", "federated"], "cdnow": ["linear", "trees"]}


def mentioning(text: str) -> list[str]:
    """Command lines of the processes that have ``text`` in their arguments or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if process.pid != os.getpid() and any(text in word for word in words):
            found.append(" ".join(process.cmdline())[:200])
    return found


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    """`raysaas demo` on free ports, in a process group of its own; its stderr goes to ``home/stderr``."""
    ports = [f"{key}=0" for key in ("cluster.port", "cluster.dashboard_port", "serve.port")]
    command = [str(Path(sys.executable).parent / "raysaas"), "demo", *words, f"home={home}", *ports, *SMALLER, "--json"]
    with (home / "stderr").open("w") as log:
        return subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
            start_new_session=True,
        )  # fmt: skip


def said(home: Path, process: subprocess.Popen[str], text: str) -> str:
    """What the demo has said as soon as ``text`` is part of it."""
    deadline = time.monotonic() + 400
    while text not in (told := (home / "stderr").read_text()):
        assert process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.5)
    return told


@pytest.fixture(scope="module", params=list(YARDSTICKS))
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_dir: str) -> SimpleNamespace:
    """One demo, run once for the tests of this module; what it said, and what was running afterwards."""
    if not (Path(data_dir) / request.param).is_dir():
        pytest.skip(f"{request.param} is not in {data_dir}")
    home, page = tmp_path_factory.mktemp(f"demo-{request.param}"), None
    demo = start(home, f"use_case={request.param}", f"data_dir={data_dir}", *WORDS[request.param])
    if "--keep" in WORDS[request.param]:
        screen = said(home, demo, "The service stays up until Ctrl-C.")
        page = httpx.get(next(line.split()[1] for line in screen.splitlines() if line.startswith("endpoint")))
        os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=590)
    left = mentioning(str(home))
    assert demo.returncode == 0, (home / "stderr").read_text()
    facts = json.loads(output)
    return SimpleNamespace(name=request.param, home=home, output=output, facts=facts, left=left, page=page)


@pytest.mark.parametrize(("number", "last"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_in_the_middle_ends_it_at_once_and_leaves_no_process(
    number: signal.Signals, last: str, tmp_path: Path, data_dir: str
) -> None:
    demo = start(tmp_path, "use_case=telco_churn", f"data_dir={data_dir}")
    said(tmp_path, demo, "\ntrain ")
    time.sleep(4)  # in the middle of a fit, whose engine has handlers of its own
    if number is signal.SIGINT:
        os.killpg(demo.pid, number)  # a terminal sends it to the whole group
    else:
        demo.send_signal(number)
    demo.communicate(timeout=30)
    stderr = (tmp_path / "stderr").read_text()
    assert demo.returncode == 128 + number, stderr
    assert stderr.endswith(f"{last}\n")
    assert "Traceback" not in stderr
    assert mentioning(str(tmp_path)) == []


def test_it_ends_with_every_step_done_and_the_same_summary_on_disk(told: SimpleNamespace) -> None:
    facts = told.facts
    assert told.output.count("\n") == 1
    assert json.loads((told.home / "demo" / "summary.json").read_text()) == facts
    assert facts["use_case"] == told.name
    assert set(facts["steps"]) == STEPS - set(WORDS[told.name])
    rows = facts["rows"]
    assert rows["read"] == rows["accepted"] + rows["quarantined"]
    assert rows["quarantined"] == 0
    assert rows["read"] == {"telco_churn": 7043, "cdnow": 69_659}[told.name]
    assert [version["family"] for version in facts["versions"]] == FAMILIES[told.name]
    assert facts["seconds"] < 300
    assert facts["peak_memory_gb"] < 6


def test_the_champion_is_as_good_as_the_data_allow(told: SimpleNamespace) -> None:
    least, suspicious = YARDSTICKS[told.name]
    assert least <= told.facts["metrics"]["auc"] < suspicious
    assert told.facts["metrics"]["auc"] >= told.facts["baseline"]["auc"] - 0.005
    champion = next(v for v in told.facts["versions"] if v["version"] == told.facts["champion"])
    assert champion["released"]
    assert champion["reason"]


def test_calm_is_silent_and_a_change_orders_a_retraining(told: SimpleNamespace) -> None:
    drift, retrain = told.facts["drift"], told.facts["retrain"]
    assert drift["calm"], "no window was full before the change"
    assert set(drift["calm"]) == {"silent"}
    assert drift["silent_before"]
    assert drift["severity"] == "drift"
    planted = {"telco_churn": {"Contract", "tenure", "MonthlyCharges"}, "cdnow": {"since_last_d", "since_first_d"}}
    assert planted[told.name] & {name.rpartition("__")[2] for name in drift["cause"]}, drift
    assert retrain["order"]["state"] == "done", retrain
    assert retrain["replaced"], retrain
    assert retrain["champion"] != told.facts["champion"]
    assert "<html" in Path(drift["html"]).read_text()[:2000].lower()


def test_no_request_failed(told: SimpleNamespace) -> None:
    traffic = told.facts["traffic"]
    assert told.facts["retrain"]["failed_requests"] == 0, traffic["errors"]
    assert (traffic["failed"], traffic["errors"]) == (0, {})
    assert traffic["decisions"] > 1000
    assert traffic["decision_id"]


def test_it_stops_and_leaves_no_process(told: SimpleNamespace) -> None:
    assert told.left == []
    assert told.page is None or told.page.status_code == 200, "it stayed up until Ctrl-C"
    assert mentioning(str(told.home)) == []
    assert not (told.home / "demo" / told.name / "head.json").exists()
    for url in (told.facts["url"], told.facts["dashboard_url"]):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
