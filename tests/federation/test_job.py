"""What a federated run is made of."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_fab
from flwr.supercore.run import Run
from safetensors.numpy import load_file, save_file

from raysaas.errors import ConfigError, InputError
from raysaas.federation import job
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas_edge import rows
from raysaas_edge.plan import Plan

Make = Callable[..., Settings]
Parts = dict[str, pa.Table]
KINDS = {"usage": "number", "plan": "category", "seats": "integer", "trial": "boolean"}


def _problem(parts: Parts, labels: tuple[str, ...] = ("No", "Yes"), **more: Any) -> job.Problem:
    return job.Problem(encoder=Encoder.fit(rows.columns(parts["train"], KINDS), KINDS), labels=labels, **more)


def test_the_plan_reaches_the_sites_whole_and_no_code_does(
    tmp_path: Path, toy_settings: Make, toy_parts: Parts
) -> None:
    plan = job.prepare(toy_settings(), _problem(toy_parts), toy_parts["valid"], tmp_path / "server")
    fab = build_fab_from_disk(job.write_app(plan, tmp_path / "app"))
    assert len(fab) < 100_000
    run = Run.create_empty(1)
    assert Plan.from_json(str(get_fused_config_from_fab(fab, run)["plan"])).to_json() == plan.to_json()
    assert b".py" not in fab.replace(b"pyproject", b"")


def test_a_target_encoding_never_leaves_for_the_sites(tmp_path: Path, toy_settings: Make, toy_parts: Parts) -> None:
    train = rows.columns(toy_parts["train"], KINDS)
    truth = np.arange(toy_parts["train"].num_rows) % 2.0
    encoder = Encoder.fit(train, KINDS, encodings={"plan": "target"}, truth=truth)
    with pytest.raises(ConfigError, match=r"encodings\.plan=target is not allowed in a federated run"):
        job.prepare(
            toy_settings(), job.Problem(encoder=encoder, labels=("No", "Yes")), toy_parts["valid"], tmp_path / "s"
        )
    assert not (tmp_path / "s").exists()


def test_preparing_is_deterministic_and_private(tmp_path: Path, toy_settings: Make, toy_parts: Parts) -> None:
    for name in ("a", "b"):
        job.prepare(toy_settings(), _problem(toy_parts), toy_parts["valid"], tmp_path / name)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    one, two = (load_file(tmp_path / name / "initial.safetensors") for name in ("a", "b"))
    assert all((one[name] == two[name]).all() for name in one)
    valid = load_file(tmp_path / "a" / "valid.safetensors")
    assert len(valid["x"]) == len(valid["y"]) == toy_parts["valid"].num_rows


@pytest.mark.parametrize(
    ("task", "labels"), [("binary", ("No", "Yes")), ("multiclass", ("a", "b", "c")), ("regression", ())]
)
def test_a_bundle_of_each_task_answers(
    tmp_path: Path, toy_settings: Make, toy_parts: Parts, task: str, labels: tuple[str, ...]
) -> None:
    parts = {name: _relabelled(table, Task(task)) for name, table in toy_parts.items()}
    problem = _problem(parts, labels, target=(0.0, 1.0) if labels else (5.0, 10.0))
    plan = job.prepare(toy_settings(task), problem, parts["valid"], tmp_path / "server")
    weights = load_file(tmp_path / "server" / "initial.safetensors")
    save_file(weights, tmp_path / "server" / "weights.safetensors")
    digest = job.save(plan, parts["train"], parts["valid"], tmp_path / "server", tmp_path / "out", meta={"sites": 2})
    loaded = bundle.load(tmp_path / "out", digest)
    assert (loaded.family, tuple(loaded.labels)) == (Family.federated, labels)
    assert loaded.manifest["meta"] == {"sites": 2, "rounds": 3}
    answer = loaded.predict(rows.columns(parts["test"], rows.kinds_of(loaded.encoder)))
    assert np.isfinite(answer.score).all()
    kept = {name: value.tolist() for name, value in loaded.weights().items()}
    assert kept == {name: value.tolist() for name, value in weights.items()}


def _relabelled(table: pa.Table, task: Task) -> pa.Table:
    count = table.num_rows
    made = {Task.binary: table["label"], Task.multiclass: pa.array((["a", "b", "c"] * count)[:count]),
            Task.regression: pa.array(np.arange(count) * 10.0)}  # fmt: skip
    return table.set_column(table.column_names.index("label"), "label", made[task])


def test_weights_to_start_from_are_taken_or_refused(tmp_path: Path, toy_settings: Make, toy_parts: Parts) -> None:
    valid = toy_parts["valid"]
    job.prepare(toy_settings(), _problem(toy_parts), valid, tmp_path / "first")
    known = {name: value + 1 for name, value in load_file(tmp_path / "first" / "initial.safetensors").items()}
    job.prepare(toy_settings(), _problem(toy_parts, weights=known), valid, tmp_path / "second")
    start = load_file(tmp_path / "second" / "initial.safetensors")
    assert all((start[name] == known[name]).all() for name in known)
    other = {name: value[:1] for name, value in known.items()}
    with pytest.raises(InputError, match="shapes"):
        job.prepare(toy_settings(), _problem(toy_parts, weights=other), valid, tmp_path / "third")
