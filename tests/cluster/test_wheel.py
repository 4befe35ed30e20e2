"""The wheel, unpacked, in a directory of a user's own: defaults inside, her conf/ searched before them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cluster.wheels import unpacked_wheel

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"src/raysaas": "raysaas", "edge/src/raysaas_edge": "raysaas_edge", "conf": "raysaas/conf"}
COMPOSE = """
import json, raysaas, raysaas_edge
from raysaas import entry
mine, theirs = entry.compose(["use_case=mine"]), entry.compose(["use_case=telco_churn"])
print(json.dumps({
    "files": [raysaas.__file__, raysaas_edge.__file__, str(entry.packaged_conf())],
    "mine": [mine.use_case.name, str(mine.use_case.task), mine.train.epochs, mine.tune.num_samples],
    "theirs": theirs.use_case.name,
}))
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked."""
    return unpacked_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def python(wheel: Path, tmp_path: Path) -> Callable[..., Done]:
    """Run Python in an empty directory with the wheel before everything else."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAYSAAS_")}
    environment["PYTHONPATH"] = str(wheel)

    def run(*arguments: str) -> Done:
        return subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

    return run


def test_it_holds_code_and_defaults_and_nothing_else(wheel: Path) -> None:
    for folder, inside in PARTS.items():
        files = [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
        wanted = {path.relative_to(ROOT / folder) for path in files}
        assert wanted
        assert {path for path in wanted if not (wheel / inside / path).is_file()} == set()
    top = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"raysaas", "raysaas_edge"}
    scripts = next(wheel.glob("*.dist-info")) / "entry_points.txt"
    assert "raysaas = raysaas.cli:main" in scripts.read_text()


def test_her_own_directory_is_all_it_needs(python: Callable[..., Done], wheel: Path, tmp_path: Path) -> None:
    rows = [f"{i},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(200)]
    (tmp_path / "file.csv").write_text("\n".join(["size,colour,bought", *rows]))
    init = python("-m", "raysaas.cli", "init", "mine", "--data", "file.csv", "--label", "bought", "--json")
    assert init.returncode == 0, init.stderr
    assert json.loads(init.stdout)["written"] == "conf/use_case/mine.yaml"
    (tmp_path / "conf" / "train").mkdir()
    (tmp_path / "conf" / "train" / "default.yaml").write_text("epochs: 7\n")

    composed = python("-c", COMPOSE)
    assert composed.returncode == 0, composed.stderr
    told = json.loads(composed.stdout)
    assert [Path(file).is_relative_to(wheel) for file in told["files"]] == [True, True, True], told
    assert told["mine"] == ["mine", "binary", 7, 4]
    assert told["theirs"] == "telco_churn"

    wrong = python("-m", "raysaas.cli", "run", "train", "use_case=mien", "--json")
    assert (wrong.returncode, wrong.stdout) == (65, "")
    assert wrong.stderr == "error: There is no use_case named 'mien': did you mean 'mine'?\n"
    assert {path.name for path in tmp_path.iterdir()} == {"file.csv", "conf"}
