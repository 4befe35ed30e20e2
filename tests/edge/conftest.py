"""A small real bundle for the edge's tests."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task

KINDS = {"usage": "number", "plan": "category"}


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., str]:
    """Write a bundle of a given seed and task; returns its digest."""
    import torch

    def make(out: Path, seed: int = 0, task: Task = Task.binary) -> str:
        labels = {Task.binary: ["No", "Yes"], Task.multiclass: ["a", "b", "c"], Task.regression: []}[task]
        random = np.random.default_rng(seed)
        columns = {"usage": random.normal(size=80), "plan": np.array(["basic", "pro"] * 40, dtype=object)}
        encoder = Encoder.fit(columns, KINDS)
        module = network.build(encoder.width, len(labels) if task is Task.multiclass else 1, [4], 0.0, seed=seed)
        scores = steps.predict(module, torch.from_numpy(encoder.dense(columns)), task=task)
        profile = Profile.fit(columns, KINDS, scores.max(axis=1) if scores.ndim > 1 else scores)
        return bundle.save(
            out, encoder=encoder, task=task, labels=labels, family=Family.federated, profile=profile, network=module
        )

    return make


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory, make_bundle: Callable[..., str]) -> Path:
    """One binary bundle."""
    out = tmp_path_factory.mktemp("bundle") / "toy"
    make_bundle(out)
    return out


@pytest.fixture
def site(tmp_path: Path, toy_bundle: Path) -> Callable[..., Path]:
    """Write edge.yaml with extra lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "edge.yaml"
        base = ["site: store-17", "use_case: churn", "home: home", f"bundle: {toy_bundle}"]
        path.write_text("\n".join([*base, *lines]) + "\n")
        return path

    return write
