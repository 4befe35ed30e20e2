"""Bundles on disk: whole or refused, the same predictions after loading, no pickle."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch

from raysaas.errors import CorruptBundle, NotFound, Terminal
from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task

KINDS = {"x": "number", "z": "number", "c": "category"}
LABELS = {Task.binary: ["no", "yes"], Task.multiclass: ["a", "b", "c"], Task.regression: []}
OBJECTIVES = {
    Task.binary: {"objective": "binary"},
    Task.multiclass: {"objective": "multiclass", "num_class": 3},
    Task.regression: {"objective": "regression"},
}


def table(num_rows: int = 300) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    c = rng.choice(np.array(["p", "q", None], dtype=object), num_rows)
    return {"x": rng.normal(size=num_rows), "z": np.where(rng.random(num_rows) < 0.1, np.nan, 1.0), "c": c}


COLUMNS = table()
ENCODER = Encoder.fit(COLUMNS, KINDS)
PROFILE = Profile.fit(COLUMNS, KINDS, COLUMNS["x"])


def booster(task: Task) -> lightgbm.Booster:
    x = COLUMNS["x"]
    y = {Task.binary: x > 0, Task.multiclass: np.digitize(x, [-0.5, 0.5]), Task.regression: x * 2}[task]
    params = {**OBJECTIVES[task], "verbose": -1, "num_threads": 1, "min_data_in_leaf": 5}
    data = lightgbm.Dataset(ENCODER.matrix(COLUMNS), y.astype(float), categorical_feature=ENCODER.categorical)
    return lightgbm.train(params, data, 10)


def save_trees(out: Path, task: Task, **extra: object) -> str:
    common = {"encoder": ENCODER, "task": task, "labels": LABELS[task], "family": Family.trees, "profile": PROFILE}
    return bundle.save(out, **common, trees=booster(task).model_to_string(), **extra)


def save_network(out: Path, task: Task, **extra: object) -> tuple[str, torch.nn.Module]:
    module = network.build(ENCODER.width, max(1, len(LABELS[task]) - (task is Task.binary)), [8], 0.1, seed=0)
    common = {"encoder": ENCODER, "task": task, "labels": LABELS[task], "family": Family.network, "profile": PROFILE}
    return bundle.save(out, **common, network=module, **extra), module


@pytest.mark.parametrize("task", list(Task))
def test_a_network_answers_as_it_did_in_torch(tmp_path: Path, task: Task) -> None:
    digest, module = save_network(tmp_path / "b", task, target=(50.0, 7.0))
    loaded = bundle.load(str(tmp_path / "b"), digest)
    x = torch.from_numpy(ENCODER.dense(COLUMNS))
    expected = bundle.decide(task, LABELS[task], steps.predict(module, x, task=task, target=(50.0, 7.0)))
    found = loaded.predict(COLUMNS)
    assert found.score == pytest.approx(expected.score, abs=1e-5)
    assert found.label == expected.label
    weights = loaded.weights()
    assert all(np.array_equal(weights[name], tensor.numpy()) for name, tensor in module.state_dict().items())
    assert (loaded.digest, loaded.task, loaded.encoder, loaded.profile) == (digest, task, ENCODER, PROFILE)


@pytest.mark.parametrize("task", list(Task))
def test_trees_answer_as_lightgbm_does_from_many_threads(tmp_path: Path, task: Task) -> None:
    loaded = bundle.load(tmp_path / "b", save_trees(tmp_path / "b", task))
    raw = booster(task).predict(ENCODER.matrix(COLUMNS))
    expected = bundle.decide(task, LABELS[task], np.asarray(raw))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: loaded.predict(COLUMNS), range(16)))
    assert all(np.array_equal(answer.score, expected.score) for answer in answers)
    assert all(answer.label == expected.label for answer in answers)
    with pytest.raises(Terminal, match="no network weights"):
        loaded.weights()


def test_decide_names_labels() -> None:
    binary = bundle.decide(Task.binary, ["no", "yes"], np.array([0.2, 0.5]))
    multi = bundle.decide(Task.multiclass, ["a", "b"], np.array([[0.1, 0.9], [0.6, 0.4]]))
    value = bundle.decide(Task.regression, [], np.array([3.0]))
    assert binary.label == ["no", "yes"]
    assert (multi.label, multi.score.tolist()) == (["b", "a"], [0.9, 0.6])
    assert (value.label, value.scores) == (None, None)


def test_long_tables_are_answered_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_trees(tmp_path / "b", Task.multiclass)
    loaded = bundle.load(tmp_path / "b")
    whole = loaded.predict(COLUMNS)
    monkeypatch.setattr("raysaas.models.scorers.CHUNK_ROWS", 7)
    assert np.array_equal(loaded.predict(COLUMNS).scores, whole.scores)


@pytest.mark.parametrize("make", [save_network, save_trees])
def test_any_changed_byte_of_any_file_is_found(tmp_path: Path, make: object) -> None:
    make(tmp_path / "b", Task.binary)
    rng = np.random.default_rng(0)
    for file in sorted((tmp_path / "b").iterdir()):
        good = file.read_bytes()
        places = {0, len(good) - 1, *rng.integers(0, len(good), 20).tolist()}
        broken = [good[:i] + bytes([good[i] ^ 1 << int(rng.integers(8))]) + good[i + 1 :] for i in places]
        for data in [*broken, good[:-1], good + b"\0", b""]:
            file.write_bytes(data)
            with pytest.raises(CorruptBundle):
                bundle.load(tmp_path / "b")
        file.write_bytes(good)
    assert bundle.load(tmp_path / "b").task is Task.binary


def test_missing_extra_and_linked_files_are_found(tmp_path: Path) -> None:
    save_network(tmp_path / "b", Task.binary)
    for name in [file.name for file in (tmp_path / "b").iterdir()]:
        broken = tmp_path / f"without-{name}"
        shutil.copytree(tmp_path / "b", broken)
        (broken / name).unlink()
        with pytest.raises(CorruptBundle, match=name):
            bundle.load(broken)
        (broken / name).symlink_to(tmp_path / "b" / name)
        with pytest.raises(CorruptBundle, match=name):
            bundle.load(broken)
    (tmp_path / "b" / "extra.pkl").write_bytes(b"x")
    with pytest.raises(CorruptBundle, match=r"extra\.pkl"):
        bundle.load(tmp_path / "b")


def test_a_whole_other_bundle_is_not_the_expected_version(tmp_path: Path) -> None:
    first, _ = save_network(tmp_path / "one", Task.binary)
    second, _ = save_network(tmp_path / "two", Task.binary, meta={"note": "other"})
    assert first != second
    with pytest.raises(CorruptBundle, match="another version"):
        bundle.load(tmp_path / "two", first)
    with pytest.raises(NotFound):
        bundle.load(tmp_path / "three")


def test_a_manifest_cannot_name_files_of_its_choice(tmp_path: Path) -> None:
    save_network(tmp_path / "b", Task.binary)
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    manifest["files"]["../../etc/passwd"] = {"sha256": "0", "bytes": 1}
    data = json.dumps(manifest).encode()
    (tmp_path / "b" / "manifest.json").write_bytes(data)
    (tmp_path / "b" / "manifest.sha256").write_bytes(bundle._sha(data).encode())
    with pytest.raises(CorruptBundle, match="neither a network nor trees"):
        bundle.load(tmp_path / "b")


def test_saving_again_gives_the_same_digest_and_replaces_the_folder_whole(tmp_path: Path) -> None:
    first, _ = save_network(tmp_path / "b", Task.binary)
    assert save_network(tmp_path / "b", Task.binary)[0] == first
    other = save_trees(tmp_path / "b", Task.binary)
    assert bundle.load(tmp_path / "b", other).family is Family.trees
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]
    with pytest.raises(Terminal, match="one model"):
        bundle.save(tmp_path / "c", encoder=ENCODER, task=Task.binary, labels=[], family=Family.trees, profile=PROFILE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["b"]


def test_loading_and_predicting_needs_neither_torch_nor_the_heavy_libraries(tmp_path: Path) -> None:
    save_network(tmp_path / "b", Task.binary)
    code = f"""
import sys, numpy as np
from raysaas.models import bundle
model = bundle.load({str(tmp_path / "b")!r})
print(model.predict(model.encoder.rows([{{"x": 1.0, "c": "p"}}])).score)
bad = {{"torch", "ray", "pandas", "sklearn", "pyarrow", "lightgbm", "mlflow", "onnx"}} & set(sys.modules)
assert not bad, bad
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
