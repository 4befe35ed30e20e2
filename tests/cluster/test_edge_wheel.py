"""The edge's wheel on a machine without the cluster's package and without Ray."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from tests.cluster.wheels import unpacked_wheel

from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task

EDGE = Path(__file__).resolve().parents[2] / "edge"

# -S leaves out .pth files, so that the development install of the cluster's package cannot be seen.
SCRIPT = """
import sys
for absent in ("ray", "pandas", "sklearn", "onnx", "sqlalchemy", "psutil"):
    sys.modules[absent] = None
sys.path[:0] = [{wheel!r}]
sys.path.append({site!r})
import json, pathlib, raysaas
assert pathlib.Path(raysaas.__file__).is_relative_to({wheel!r}), raysaas.__file__
import raysaas_edge.agent, raysaas_edge.loop, raysaas_edge.client_app
assert "raysaas.settings" not in sys.modules
from raysaas_edge.predict import Predictor
(decision,) = Predictor(pathlib.Path({bundle!r})).predict([{{"usage": 1.0, "plan": "pro"}}])
print(json.dumps([decision.score, decision.label]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    return unpacked_wheel(EDGE, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_what_is_shared_and_no_more(wheel: Path) -> None:
    names = {str(path.relative_to(wheel)) for path in wheel.rglob("*.py")}
    shared = {name for name in names if name.startswith("raysaas/")}
    assert {"raysaas/__init__.py", "raysaas/errors.py", "raysaas/records.py", "raysaas/models/bundle.py"} <= shared
    assert all(name.count("/") == 1 or name.startswith("raysaas/models/") for name in shared)
    assert "raysaas/settings.py" not in shared
    assert "raysaas_edge/client_app.py" in names
    scripts = next(wheel.glob("*.dist-info")) / "entry_points.txt"
    assert "raysaas-edge = raysaas_edge.agent:main" in scripts.read_text()


def test_it_predicts_without_ray_and_without_the_cluster(wheel: Path, tmp_path: Path) -> None:
    import torch

    columns = {"usage": np.linspace(-1, 1, 40), "plan": np.array(["basic", "pro"] * 20, dtype=object)}
    kinds = {"usage": "number", "plan": "category"}
    encoder = Encoder.fit(columns, kinds)
    module = network.build(encoder.width, 1, [4], 0.0, seed=0)
    scores = steps.predict(module, torch.from_numpy(encoder.dense(columns)), task=Task.binary)
    bundle.save(
        tmp_path / "b", encoder=encoder, task=Task.binary, labels=["No", "Yes"], family=Family.network,
        profile=Profile.fit(columns, kinds, scores), network=module,
    )  # fmt: skip
    script = SCRIPT.format(wheel=str(wheel), site=sysconfig.get_path("purelib"), bundle=str(tmp_path / "b"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    score, label = json.loads(done.stdout)
    loaded = bundle.load(tmp_path / "b")
    expected = loaded.predict(loaded.encoder.rows([{"usage": 1.0, "plan": "pro"}]))
    assert score == pytest.approx(float(expected.score[0]))
    assert label == (expected.label or [None])[0]


def test_an_editable_install_exposes_the_edge_only(tmp_path: Path) -> None:
    """Copies of the shared modules in site-packages would shadow the checkout that is being worked on."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(tmp_path / "venv" / "bin" / "python")]
    install = [*pip, "install", "--quiet", "--no-deps", "--editable", str(EDGE)]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    assert not (site / "raysaas").exists()
    assert (site / "_raysaas_edge.pth").read_text().strip() == str(EDGE / "src")
