"""A network in torch on a device answers as its ONNX graph does, or hands over to it; the CPU stands in for a GPU.

What only a GPU can show runs where there is one: the same tests with ``cuda``, and that its memory comes back.
"""

import json
import logging
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raysaas.errors import CorruptBundle
from raysaas.models import bundle, gpu, network
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.models.rounding import TOLERANCE, rounding
from raysaas.models.scorers import ON_CPU, Prediction
from raysaas.records import Arm, Family, Task
from raysaas.serving.versions import load

NUM = 400
LABELS = {Task.binary: ["no", "yes"], Task.multiclass: ["a", "b", "c"], Task.regression: []}
TARGET = (50.0, 7.0)
KINDS = {"x": "number", "n": "integer", "b": "boolean", "plan": "category", "city": "category"}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason=f"torch {torch.__version__} finds no GPU here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def columns():
    rng = np.random.default_rng(5)
    return {
        "x": np.where(rng.random(NUM) < 0.1, np.nan, rng.standard_cauchy(NUM) * 1e3),
        "n": rng.integers(-5, 90, NUM).astype(float), "b": rng.integers(0, 2, NUM).astype(float),
        "plan": rng.choice(np.array(["free", "pro", None], object), NUM),
        "city": rng.choice(np.array([f"c{i}" for i in range(50)], object), NUM),
    }  # fmt: skip


def saved(folder: Path, task: Task, encoding: str = "", hidden=(64, 64), module: nn.Module | None = None) -> str:
    data = columns()
    truth = np.random.default_rng(1).random(NUM)
    encodings = {"city": encoding} if encoding else {}
    encoder = Encoder.fit(data, KINDS, encodings=encodings, truth=truth)
    outputs = 3 if task is Task.multiclass else 1
    return bundle.save(
        folder, encoder=encoder, task=task, labels=LABELS[task], family=Family.network, target=TARGET,
        profile=Profile.fit(data, KINDS, truth),
        network=module or network.build(encoder.width, outputs, hidden, 0.1, seed=3),
    )  # fmt: skip


def all_scores(prediction: Prediction) -> np.ndarray:
    return prediction.score if prediction.scores is None else prediction.scores


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize(
    ("encoding", "hidden"),
    [("", (64, 64)), ("onehot", ()), ("ordinal", (8,)), ("frequency", (130, 33)), ("target", (64,))],
)
def test_it_answers_as_the_graph_does_in_any_batch(tmp_path, task, encoding, hidden, device):
    digest = saved(tmp_path / "b", task, encoding, hidden)
    graph, there = bundle.load(tmp_path / "b", digest), bundle.load(tmp_path / "b", digest, device)
    expected = all_scores(graph.predict(columns()))
    unit = TARGET[1] + np.abs(expected - TARGET[0]) if task is Task.regression else np.ones_like(expected)
    for size in (1, 16, 256, NUM):
        starts = range(0, NUM if size > 1 else 64, size)
        parts = [{name: column[i : i + size] for name, column in columns().items()} for i in starts]
        found = np.concatenate([all_scores(there.predict(part)) for part in parts])
        assert found.dtype == np.float64
        assert np.max(np.abs(found - expected[: len(found)]) / unit[: len(found)]) < TOLERANCE
    assert (graph.backend, there.backend) == ("onnxruntime/cpu", f"torch/{device}")


def test_trees_stay_on_the_cpu(tmp_path):
    import lightgbm

    encoder = Encoder.fit(columns(), KINDS)
    data = lightgbm.Dataset(encoder.matrix(columns()), np.arange(NUM) % 2)
    text = lightgbm.train({"objective": "binary", "verbose": -1}, data, 3).model_to_string()
    bundle.save(
        tmp_path / "b", encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.trees, trees=text,
        profile=Profile.fit(columns(), KINDS, np.random.default_rng(0).random(NUM)),
    )  # fmt: skip
    assert bundle.load(tmp_path / "b", device="cuda").backend == "lightgbm/cpu"


def test_weights_that_were_changed_are_refused_before_torch_sees_them(tmp_path):
    digest = saved(tmp_path / "b", Task.binary)
    weights = tmp_path / "b" / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-4] + b"\0\0\0?")
    with pytest.raises(CorruptBundle, match=r"weights\.safetensors does not match its digest"):
        bundle.load(tmp_path / "b", digest, "cpu")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_bytes())
    manifest["files"]["weights.safetensors"]["sha256"] = bundle._sha(weights.read_bytes())
    data = json.dumps(manifest).encode()
    (tmp_path / "b" / "manifest.json").write_bytes(data)
    (tmp_path / "b" / "manifest.sha256").write_bytes(bundle._sha(data).encode())
    with pytest.raises(CorruptBundle, match="another version"):
        bundle.load(tmp_path / "b", digest, "cpu")


def test_a_network_that_build_did_not_make_is_answered_by_its_graph(tmp_path, caplog):
    width = Encoder.fit(columns(), KINDS).width
    other = nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 1))  # no dropout: other names
    saved(tmp_path / "b", Task.binary, module=other)
    with caplog.at_level(logging.WARNING):
        loaded = bundle.load(tmp_path / "b", device="cpu")
    assert loaded.backend == "onnxruntime/cpu"
    assert "onnxruntime/cpu answers from now on" in caplog.text
    assert np.array_equal(loaded.predict(columns()).score, bundle.load(tmp_path / "b").predict(columns()).score)


@pytest.mark.parametrize("task", list(Task))
def test_a_device_that_fails_in_a_call_hands_that_call_to_the_cpu_and_says_so_once(tmp_path, caplog, task):
    saved(tmp_path / "b", task)
    loaded = bundle.load(tmp_path / "b", device="meta")  # loads, computes, and then has no data to give back
    assert loaded.backend == "torch/meta"
    with caplog.at_level(logging.WARNING):
        first, second = loaded.predict(columns()), loaded.predict(columns())
    graph = bundle.load(tmp_path / "b").predict(columns())
    assert all_scores(first).tobytes() == all_scores(second).tobytes() == all_scores(graph).tobytes()
    assert (loaded.backend in ON_CPU, len(caplog.records)) == (True, 1)


@pytest.mark.parametrize("device", DEVICES)
def test_a_version_that_is_let_go_leaves_no_tensor(tmp_path, device):
    digest = saved(tmp_path / "b", Task.multiclass)
    arm = Arm(version=1, uri=str(tmp_path / "b"), digest=digest)
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    version = load(arm, device)
    tensors = [weakref.ref(tensor) for tensor in version._scorer._network.parameters()]
    assert all(ref().device.type == device for ref in tensors)
    del version  # as the LRU does; nothing waits for the garbage collector
    assert [ref() for ref in tensors] == [None] * len(tensors)
    assert device != "cuda" or torch.cuda.memory_allocated() == before


@needs_gpu
def test_a_gpu_is_claimed_in_full_float32():
    assert gpu.claim(1.0) is None
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_reason_is_said():
    assert gpu.claim(1.0) == f"torch {torch.__version__} finds no GPU in this process"


A, NEAR = TOLERANCE / 2, 0.5 - TOLERANCE / 4
BINARY = {"labels": ("no", "yes")}
MULTI = {"labels": ("a", "b", "c")}


@pytest.mark.parametrize(
    ("again", "score", "label", "explains"),
    [
        (Prediction(np.array([0.3]), ["no"], **BINARY), 0.3 + A, "no", True),
        (Prediction(np.array([0.3]), ["no"], **BINARY), 0.3 + 4 * A, "no", False),
        (Prediction(np.array([0.3]), ["no"], **BINARY), 0.3 + A, "yes", False),
        (Prediction(np.array([NEAR]), ["no"], **BINARY), NEAR + A, "yes", True),
        (Prediction(np.array([NEAR]), ["no"], **BINARY), NEAR + A, None, False),
        (Prediction(np.array([0.4]), ["a"], np.array([[0.4, 0.4 - A, 0.2]]), **MULTI), 0.4, "b", True),
        (Prediction(np.array([0.5]), ["a"], np.array([[0.5, 0.3, 0.2]]), **MULTI), 0.3, "b", False),
        (Prediction(np.array([0.5]), ["a"], np.array([[0.5, 0.3, 0.2]]), **MULTI), 0.5, "b", False),
        (Prediction(np.array([0.5]), ["a"], np.array([[0.5, 0.3, 0.2]]), **MULTI), 0.5, "z", False),
        (Prediction(np.array([1e6])), 1e6 + A * 10, None, True),
        (Prediction(np.array([1e6])), 1e6 + A * 100, None, False),
        (Prediction(np.array([1e6])), 1e6, "no", False),
    ],
)  # fmt: skip
def test_rounding_explains_what_it_can_and_no_other_label(again, score, label, explains):
    target = (1e6, 10.0) if again.labels == () else (0.0, 1.0)
    assert rounding(again, score, label, target).explains is explains
