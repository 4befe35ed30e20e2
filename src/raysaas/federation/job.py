"""What a federated run is made of: the plan for the sites, the server's own files, the app bundle, the saved model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tomli_w
from safetensors.numpy import load_file, save_file

from raysaas import __version__
from raysaas.errors import ConfigError, InputError
from raysaas.models import bundle, network, steps
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family
from raysaas.settings import Settings
from raysaas_edge import rows
from raysaas_edge.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What every site must agree on before the first round.

    ``labels`` and ``target`` as in :func:`raysaas.models.bundle.save`; ``weights`` are where to start (by torch's
    names), else the seed decides.
    """

    encoder: Encoder
    labels: Sequence[str] = ()
    target: tuple[float, float] = (0.0, 1.0)
    weights: Mapping[str, np.ndarray] | None = None


def prepare(settings: Settings, problem: Problem, valid: pa.Table, folder: Path) -> Plan:
    """Write initial weights and encoded validation rows into ``folder`` and return the plan that the sites get.

    Raises InputError when ``problem.weights`` do not fit the network, ConfigError for a target encoding.
    """
    if targets := [field.name for field in problem.encoder.fields if field.encoding == "target"]:
        raise ConfigError(
            f"use_case.encodings.{targets[0]}=target is not allowed in a federated run: sites would see each other's "
            "labels in it; expected onehot, ordinal or frequency."
        )
    folder.mkdir(mode=0o700, parents=True)
    plan = _plan(settings, problem, folder)
    x = problem.encoder.dense(rows.columns(valid, rows.kinds_of(problem.encoder)))
    y = rows.targets(valid.column(rows.LABEL), plan.task, plan.labels, plan.target)
    save_file({"x": np.ascontiguousarray(x, dtype=np.float32), "y": y}, folder / "valid.safetensors")
    save_file(_initial(plan, problem), folder / "initial.safetensors")
    return plan


def _plan(settings: Settings, problem: Problem, folder: Path) -> Plan:
    federated = settings.federated
    return Plan(
        task=settings.use_case.task, encoder=problem.encoder.to_json(), labels=tuple(problem.labels),
        target=problem.target, hidden=tuple(settings.model.hidden), dropout=settings.model.dropout,
        rounds=federated.rounds, local_epochs=federated.local_epochs, batch_size=settings.train.batch_size,
        learning_rate=federated.learning_rate, weight_decay=settings.train.weight_decay, seed=settings.seed,
        max_weight_share=federated.max_weight_share, min_nodes=min(2, federated.num_nodes),
        round_timeout_s=federated.timeout_s / max(federated.rounds, 2), server={"folder": str(folder)},
    )  # fmt: skip


def _initial(plan: Plan, problem: Problem) -> dict[str, np.ndarray]:
    module = network.build(problem.encoder.width, plan.num_outputs, plan.hidden, plan.dropout, seed=plan.seed)
    fresh = {name: value.numpy() for name, value in module.state_dict().items()}
    if problem.weights is None:
        return fresh
    found, expected = ({name: value.shape for name, value in each.items()} for each in (problem.weights, fresh))
    if found != expected:
        raise InputError(f"The weights to start from have shapes {found}, the network has {expected}: drop them.")
    return {name: np.ascontiguousarray(problem.weights[name]) for name in fresh}


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


def save(plan: Plan, train: pa.Table, valid: pa.Table, folder: Path, out: Path, *, meta: dict[str, Any]) -> str:
    """Save the averaged weights as a bundle with the reference profile of the training rows; returns its digest."""
    import torch

    encoder = Encoder.from_json(dict(plan.encoder))
    kinds = rows.kinds_of(encoder)
    module = network.build(encoder.width, plan.num_outputs, plan.hidden, plan.dropout)
    weights = load_file(folder / "weights.safetensors")
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    # Scores come from rows that no site fitted, as they will in production.
    x = torch.from_numpy(encoder.dense(rows.columns(valid, kinds)))
    scores = steps.predict(module, x, task=plan.task, target=plan.target)
    profile = Profile.fit(rows.columns(train, kinds), kinds, scores.max(axis=1) if scores.ndim > 1 else scores)
    return bundle.save(
        out, encoder=encoder, task=plan.task, labels=plan.labels, family=Family.federated, profile=profile,
        network=module, target=plan.target, meta=meta | {"rounds": plan.rounds},
    )  # fmt: skip
