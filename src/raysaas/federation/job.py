"""What a federated run is made of: the plan for the sites, the server's own files, the app bundle, the saved model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tomli_w
from safetensors.numpy import load_file, save_file

from raysaas import __version__
from raysaas.errors import InputError
from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas.settings import Settings
from raysaas_edge import rows
from raysaas_edge.plan import Plan

_NOT_FEATURES = {"row_id", "tenant", "entity", "event_time", "known_at", "split", "label"}
_POSITIVE = {"yes", "true", "1", "y", "t", "churned"}


def prepare(settings: Settings, parts: Mapping[str, pa.Table], start: Path | None, folder: Path) -> Plan:
    """Write initial weights and encoded validation rows into ``folder`` and return the plan that the sites get."""
    folder.mkdir(mode=0o700, parents=True)
    champion = bundle.load(start) if start else None
    train = parts["train"]
    encoder = champion.encoder if champion else _fit_encoder(train)
    plan = _plan(settings, train, encoder, champion, folder)
    x = encoder.dense(rows.columns(parts["valid"], rows.kinds_of(encoder)))
    y = rows.targets(parts["valid"].column(rows.LABEL), plan.task, plan.labels, plan.target)
    save_file({"x": np.ascontiguousarray(x, dtype=np.float32), "y": y}, folder / "valid.safetensors")
    save_file(_initial(plan, x.shape[1], champion), folder / "initial.safetensors")
    return plan


def _plan(settings: Settings, train: pa.Table, encoder: Encoder, champion: bundle.Bundle | None, folder: Path) -> Plan:
    task, federated = settings.use_case.task, settings.federated
    labels = tuple(champion.labels) if champion else classes(train, task, settings.use_case.examples.positive)
    return Plan(
        task=task,
        encoder=encoder.to_json(),
        labels=labels,
        target=_target(train, task),
        hidden=tuple(settings.model.hidden),
        dropout=settings.model.dropout,
        rounds=federated.rounds,
        local_epochs=federated.local_epochs,
        batch_size=settings.train.batch_size,
        learning_rate=federated.learning_rate,
        weight_decay=settings.train.weight_decay,
        seed=settings.seed,
        max_weight_share=federated.max_weight_share,
        min_nodes=min(2, federated.num_nodes),
        round_timeout_s=federated.timeout_s / max(federated.rounds, 2),
        server={"folder": str(folder)},
    )


def _fit_encoder(train: pa.Table) -> Encoder:
    kinds = {name: _kind(train.schema.field(name).type) for name in train.column_names if name not in _NOT_FEATURES}
    return Encoder.fit(rows.columns(train, kinds), kinds)


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_):
        return "integer"
    return "number" if pa.types.is_floating(type_) else "category"


def classes(train: pa.Table, task: Task, positive: str | None) -> tuple[str, ...]:
    """Labels in the order of the network's outputs: [negative, positive] for binary, sorted for multi-class.

    Without ``positive`` it is the label that says yes, else the rarer one. Raises InputError for one class.
    """
    if task is Task.regression:
        return ()
    counted = pc.value_counts(train.column("label").cast(pa.string()))
    counts = {item["values"]: item["counts"] for item in counted.to_pylist()}
    names = sorted(counts)
    if len(names) < 2 or (task is Task.binary and len(names) > 2):
        expected = "two classes" if task is Task.binary else "two classes or more"
        raise InputError(f"A {task} label needs {expected}, the training rows have {names[:5]}.")
    if task is Task.multiclass:
        return tuple(names)
    said = [name for name in names if name.lower() in _POSITIVE]
    chosen = positive or (said[0] if len(said) == 1 else min(names, key=lambda name: (counts[name], name)))
    if chosen not in names:
        raise InputError(
            f"use_case.examples.positive={chosen!r} is not a label of the training rows: use one of {names}."
        )
    return next(name for name in names if name != chosen), chosen


def _target(train: pa.Table, task: Task) -> tuple[float, float]:
    if task is not Task.regression:
        return 0.0, 1.0
    labels = train.column("label").cast(pa.float64())
    return float(pc.mean(labels).as_py()), float(pc.stddev(labels).as_py()) or 1.0


def _initial(plan: Plan, width: int, champion: bundle.Bundle | None) -> dict[str, np.ndarray]:
    module = network.build(width, plan.num_outputs, plan.hidden, plan.dropout, seed=plan.seed)
    fresh = {name: value.numpy() for name, value in module.state_dict().items()}
    if champion is None or champion.family is Family.trees or plan.task is Task.regression:
        return fresh
    known = champion.weights()
    same = {name: value.shape for name, value in known.items()} == {name: value.shape for name, value in fresh.items()}
    return {name: np.ascontiguousarray(known[name]) for name in fresh} if same else fresh


def write_app(plan: Plan, folder: Path) -> Path:
    """The Flower app: components that name installed modules, and the plan. No code travels to the sites."""
    folder.mkdir(mode=0o700)
    components = {"serverapp": "raysaas.federation.server_app:app", "clientapp": "raysaas_edge.client_app:app"}
    app = {"publisher": "raysaas", "components": components, "config": {"plan": plan.to_json()}}
    project = {
        "name": "raysaas-federation",
        "version": __version__,
        "license": "Apache-2.0",
        "dependencies": [],
        "description": "Federated averaging of a raysaas network.",
    }
    (folder / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
    return folder


def save(plan: Plan, parts: Mapping[str, pa.Table], folder: Path, out: Path, *, meta: dict[str, Any]) -> str:
    """Save the averaged weights as a bundle with the reference profile of the training rows; returns its digest."""
    import torch

    encoder = Encoder.from_json(dict(plan.encoder))
    kinds = rows.kinds_of(encoder)
    module = network.build(encoder.width, plan.num_outputs, plan.hidden, plan.dropout)
    weights = load_file(folder / "weights.safetensors")
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    # Scores come from rows that no site fitted, as they will in production.
    valid = torch.from_numpy(encoder.dense(rows.columns(parts["valid"], kinds)))
    scores = steps.predict(module, valid, task=plan.task, target=plan.target)
    profile = Profile.fit(rows.columns(parts["train"], kinds), kinds, scores.max(axis=1) if scores.ndim > 1 else scores)
    return bundle.save(
        out,
        encoder=encoder,
        task=plan.task,
        labels=list(plan.labels),
        family=Family.federated,
        profile=profile,
        network=module,
        target=plan.target,
        meta=meta | {"rounds": plan.rounds},
    )
