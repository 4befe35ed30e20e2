"""The command line of a site."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysaas_edge.agent import main


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
