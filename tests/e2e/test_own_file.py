"""A user's own file: `raysaas init`, `raysaas run pipeline`, requests, feedback, `why`; real processes throughout."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pandas as pd
import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def leads(path: Path, num_rows: int = 1500) -> Path:
    """Leads of a sales team: odd column names, gaps, a string label, an id, a constant, free text."""
    rng = np.random.default_rng(7)
    calls, budget = rng.poisson(3, num_rows), rng.lognormal(8, 1, num_rows)
    origin = rng.choice(["ad", "friend", "fair, abroad"], num_rows)
    logit = 0.9 * (calls - 3) + 1.2 * (origin == "friend") + 0.8 * (np.log(budget) - 8) - 0.5
    frame = pd.DataFrame(
        {
            "Lead ID": [f"L-{i:05d}" for i in range(num_rows)],
            "# calls": np.where(rng.random(num_rows) < 0.1, np.nan, calls),
            "Budget (EUR)": budget.round(2),
            "origin": origin,
            "country": "DE",
            "Bought?": np.where(rng.random(num_rows) < 1 / (1 + np.exp(-logit)), "yes", "no"),
        }
    )
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, platform: SimpleNamespace) -> SimpleNamespace:
    """The file taken to a served model, once for this module."""
    import os
    import sys

    folder = tmp_path_factory.mktemp("user")
    leads(folder / "leads.csv")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).parent / "raysaas"), *arguments]
        env = {**os.environ, "RAYSAAS_HOME": str(platform.home)}
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)

    init = run("init", "leads", "--data", "leads.csv", "--json")
    assert init.returncode == 0, init.stderr
    done = run("run", "pipeline", "use_case=leads", "--json")
    assert done.returncode == 0, done.stderr
    key = run("key", "create", "--tenant", "acme", "--json")
    assert key.returncode == 0, key.stderr
    return SimpleNamespace(
        folder=folder, run=run, init=json.loads(init.stdout), result=json.loads(done.stdout), key=json.loads(key.stdout)
    )


def test_init_says_what_it_assumed(served: SimpleNamespace) -> None:
    assumed = " ".join(served.init["assumed"])
    assert served.init["task"] == "binary"
    for word in ("Bought", "Lead", "country"):
        assert word in assumed
    assert (served.folder / "conf/use_case/leads.yaml").read_text().startswith("#")


def test_the_pipeline_ends_with_the_promised_fields(served: SimpleNamespace) -> None:
    result = served.result
    assert result["rows"] == {"read": 1500, "accepted": 1500, "quarantined": 0}
    assert (result["use_case"], result["task"], result["released"]) == ("leads", "binary", True)
    assert result["model_version"] >= 1
    assert result["metrics"]["auc"] > 0.75
    assert result["baseline"]["auc"] > 0.7
    assert result["url"].endswith("/leads")


def test_requests_are_answered_and_explained(served: SimpleNamespace) -> None:
    headers = {"authorization": f"Bearer {served.key['key']}"}
    rows = [{"# calls": 9, "Budget (EUR)": 9000.0, "origin": "friend"}, {"calls": None, "nope": 1}]
    with httpx.Client(base_url=served.result["url"], headers=headers) as http:
        refused = http.post("/predict", json={"instances": rows})
        assert refused.status_code == 422, refused.text
        assert "nope" in refused.text
        names = json.loads(served.run("status", "--json").stdout)
        assert names["use_cases"]["leads"]["champion"] == served.result["model_version"]
        answer = http.post("/predict", json={"instances": rows[:1]})
        assert answer.status_code == 200, answer.text
        (decision,) = answer.json()["decisions"]
        assert decision["score"] > 0.7
        assert (decision["label"], decision["model_version"]) == ("yes", served.result["model_version"])
        outcome = {"decision_id": decision["decision_id"], "label": "yes"}
        assert http.post("/feedback", json={"outcomes": [outcome]}).status_code in (200, 202)
        assert http.get("/docs").status_code == 200
        assert http.get("/openapi.json").json()["paths"]
    assert httpx.post(f"{served.result['url']}/predict", json={"instances": rows[:1]}).status_code == 401
    why = json.loads(served.run("why", decision["decision_id"], "use_case=leads", "--json").stdout)
    assert why["same_score"]
    assert why["decision"]["tenant"] == "acme"
    assert why["outcome"]["label"] == "yes"
    kinds = [record["kind"] for record in why["lineage"]]
    assert (kinds[:3], set(kinds[3:])) == (["model", "release", "training"], {"snapshot"})
    assert [record["id"] for record in why["lineage"] if record["id"].startswith("raw.leads__")]
    assert [Path(file).name for file in why["files"]] == ["leads.csv"]
    tree = served.run("lineage", decision["decision_id"], "use_case=leads").stdout
    assert f"decision {decision['decision_id']}" in tree
    assert "leads.csv (sha256" in tree
    assert "outcome 'yes'" in tree


def test_running_it_again_adds_nothing(served: SimpleNamespace) -> None:
    again = json.loads(served.run("run", "ingest", "use_case=leads", "--json").stdout)
    assert again["rows"]["accepted"] == 0


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "empty"),
        ("a,b,label\n", "no rows"),
        ("a,b,label\n1,2,x\n2,3,x\n3,4,x\n", "nothing to learn"),
        ("PK\x03\x04 this is no table", ""),
    ],
    ids=["empty", "header only", "one class", "another format"],
)  # fmt: skip
def test_a_bad_file_is_one_sentence(raysaas: Run, tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "bad.csv").write_text(content)
    done = raysaas("init", "bad", "--data", "bad.csv", "--label", "label")
    assert done.returncode == 65
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert sentence in done.stderr
    assert not (tmp_path / "conf").exists()


def test_a_missing_file_and_a_missing_label_are_named(raysaas: Run, tmp_path: Path) -> None:
    done = raysaas("init", "gone", "--data", "gone.csv")
    assert done.returncode == 65
    assert "gone.csv" in done.stderr
    leads(tmp_path / "leads.csv", 50)
    done = raysaas("init", "leads", "--data", "leads.csv", "--label", "Bougt?")
    assert done.returncode == 65
    assert "Bought?" in done.stderr
