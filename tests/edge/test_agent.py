"""The command line of a site, and its config."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysaas.errors import ConfigError
from raysaas_edge import config
from raysaas_edge.agent import main


@pytest.fixture
def site(tmp_path: Path, toy_bundle: Path) -> Callable[..., Path]:
    """Write edge.yaml with extra lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "edge.yaml"
        base = ["site: store-17", "use_case: churn", "home: home", f"bundle: {toy_bundle}"]
        path.write_text("\n".join([*base, *lines]) + "\n")
        return path

    return write


def _said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_from_bundle_to_rows_to_train_on(
    tmp_path: Path, site: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(site())
    assert main(["pull", "--config", path]) == 0
    assert len(_said(capsys)["digest"]) == 64
    (tmp_path / "rows.jsonl").write_text('{"usage": 1.0, "plan": "pro"}\n\n{"usage": null, "plan": "basic"}\n')
    assert main(["predict", "--config", path, str(tmp_path / "rows.jsonl")]) == 0
    first, second = _said(capsys)["decisions"]
    assert 0 < first["score"] < 1
    assert first["decision_id"] != second["decision_id"]
    (tmp_path / "outcomes.jsonl").write_text(json.dumps({"decision_id": first["decision_id"], "label": "Yes"}))
    assert main(["outcome", "--config", path, str(tmp_path / "outcomes.jsonl")]) == 0
    assert _said(capsys) == {"queued": 1}
    assert main(["export", "--config", path]) == 0
    assert _said(capsys)["rows"] == 1
    assert main(["status", "--config", path]) == 0
    said = _said(capsys)
    assert (said["site"], said["decisions_held"], said["outcomes_queued"]) == ("store-17", 2, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"usage": "many"}', "usage"),
        ('{"unheard_of": 1}', "unheard_of"),
        ("{oops", "line 1 is not JSON"),
        ("[1]", "line 1 is not an object"),
    ],
)
def test_a_wrong_row_is_exit_65_and_named(
    tmp_path: Path, site: Callable[..., Path], capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    path = str(site())
    main(["pull", "--config", path])
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    assert main(["predict", "--config", path, str(tmp_path / "rows.jsonl")]) == 65
    assert message in capsys.readouterr().err


def test_a_cluster_out_of_reach_is_exit_75_and_loses_nothing(
    tmp_path: Path, site: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("secret\n")
    path = str(site("cluster: http://127.0.0.1:9", "key_file: key"))
    (tmp_path / "outcomes.jsonl").write_text('{"decision_id": "d", "label": "No"}\n')
    assert main(["outcome", "--config", path, str(tmp_path / "outcomes.jsonl")]) == 0
    assert main(["send", "--config", path]) == 75
    assert "1 stay queued" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pol_s: 3", "did you mean poll_s"),
        ("poll_s: -1", "poll_s=-1"),
        ("max_rows: many", "max_rows='many'"),
        ("extra_fields: drop", "refuse or ignore"),
        ("supernode: {superlink: 'x:1'}", "root_certificates"),
        ("supernode: {superlnk: 'x:1'}", "did you mean supernode.superlink"),
        ("supernode: yes", "supernode"),
    ],
)
def test_a_wrong_config_names_the_key(site: Callable[..., Path], line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(site(line))


def test_what_is_required_is_listed(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("site: a\n")
    with pytest.raises(ConfigError, match="use_case, home, bundle"):
        config.read(tmp_path / "edge.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read(tmp_path / "none.yaml")
