"""What a federated run is made of."""

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.common.config import get_fused_config_from_fab
from flwr.supercore.run import Run
from safetensors.numpy import load_file, save_file

from raysaas.errors import InputError
from raysaas.federation import job
from raysaas.models import bundle
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas_edge import rows
from raysaas_edge.plan import Plan


def test_the_plan_reaches_the_sites_whole_and_no_code_does(
    tmp_path: Path, toy_settings: Callable[..., Settings], toy_parts: dict[str, pa.Table]
) -> None:
    plan = job.prepare(toy_settings(), toy_parts, None, tmp_path / "server")
    fab = build_fab_from_disk(job.write_app(plan, tmp_path / "app"))
    assert len(fab) < 100_000
    run = Run.create_empty(1)
    assert Plan.from_json(str(get_fused_config_from_fab(fab, run)["plan"])).to_json() == plan.to_json()
    assert b".py" not in fab


def test_preparing_is_deterministic_and_private(
    tmp_path: Path, toy_settings: Callable[..., Settings], toy_parts: dict[str, pa.Table]
) -> None:
    for name in ("a", "b"):
        job.prepare(toy_settings(), toy_parts, None, tmp_path / name)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    one, two = (load_file(tmp_path / name / "initial.safetensors") for name in ("a", "b"))
    assert all((one[name] == two[name]).all() for name in one)
    valid = load_file(tmp_path / "a" / "valid.safetensors")
    assert len(valid["x"]) == len(valid["y"]) == toy_parts["valid"].num_rows


@pytest.mark.parametrize(
    ("task", "labels"), [("binary", ("No", "Yes")), ("multiclass", ("a", "b", "c")), ("regression", ())]
)
def test_a_bundle_of_each_task_answers(
    tmp_path: Path,
    toy_settings: Callable[..., Settings],
    toy_parts: dict[str, pa.Table],
    task: str,
    labels: tuple[str, ...],
) -> None:
    settings = toy_settings(task)
    parts = {name: _relabelled(table, Task(task)) for name, table in toy_parts.items()}
    plan = job.prepare(settings, parts, None, tmp_path / "server")
    assert plan.labels == labels
    weights = load_file(tmp_path / "server" / "initial.safetensors")
    save_file(weights, tmp_path / "server" / "weights.safetensors")
    digest = job.save(plan, parts, tmp_path / "server", tmp_path / "out", meta={"sites": 2})
    loaded = bundle.load(tmp_path / "out", digest)
    assert (loaded.family, tuple(loaded.labels)) == (Family.federated, labels)
    assert loaded.manifest["meta"]["sites"] == 2
    answer = loaded.predict(rows.columns(parts["test"], rows.kinds_of(loaded.encoder)))
    assert np.isfinite(answer.score).all()
    assert {name: value.tolist() for name, value in loaded.weights().items()} == {
        n: v.tolist() for n, v in weights.items()
    }


def _relabelled(table: pa.Table, task: Task) -> pa.Table:
    count = table.num_rows
    made = {Task.binary: table["label"], Task.multiclass: pa.array((["a", "b", "c"] * count)[:count]),
            Task.regression: pa.array(np.arange(count) * 10.0)}  # fmt: skip
    return table.set_column(table.column_names.index("label"), "label", made[task])


def test_a_champion_gives_encoder_labels_and_weights(
    tmp_path: Path, toy_settings: Callable[..., Settings], toy_parts: dict[str, pa.Table]
) -> None:
    plan = job.prepare(toy_settings(), toy_parts, None, tmp_path / "first")
    known = {name: value + 1 for name, value in load_file(tmp_path / "first" / "initial.safetensors").items()}
    save_file(known, tmp_path / "first" / "weights.safetensors")
    job.save(plan, toy_parts, tmp_path / "first", tmp_path / "champion", meta={})
    again = job.prepare(toy_settings(), toy_parts, tmp_path / "champion", tmp_path / "second")
    assert again.encoder == plan.encoder
    start = load_file(tmp_path / "second" / "initial.safetensors")
    assert all((start[name] == known[name]).all() for name in known)


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [
        (["Yes", "No", "No"], None, ("No", "Yes")),
        (["0", "1", "1"], None, ("0", "1")),
        (["up", "down", "down"], None, ("down", "up")),
        (["up", "down", "down"], "down", ("up", "down")),
    ],
)
def test_the_positive_class_comes_last(labels: list[str], positive: str | None, expected: tuple[str, str]) -> None:
    assert job.classes(pa.table({"label": labels}), Task.binary, positive) == expected


def test_labels_that_cannot_be_learnt_are_named() -> None:
    with pytest.raises(InputError, match=r"\['a'\]"):
        job.classes(pa.table({"label": ["a", "a"]}), Task.binary, None)
    with pytest.raises(InputError, match="two classes"):
        job.classes(pa.table({"label": ["a", "b", "c"]}), Task.binary, None)
    with pytest.raises(InputError, match="positive='c'"):
        job.classes(pa.table({"label": ["a", "b"]}), Task.binary, "c")
