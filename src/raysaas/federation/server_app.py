"""The Flower ServerApp: seeded or warm-started weights, bounded rounds, and what came of them on disk.

Runs in the SuperLink's own process tree. The plan names the folder that it shares with :mod:`raysaas.federation.run`:
``initial.safetensors`` in; ``weights.safetensors`` and ``history.json`` out, the latter last and whole.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import load_file, save_file

from raysaas.errors import Unavailable
from raysaas.federation.grid import PromptGrid
from raysaas.federation.strategy import BoundedFedAvg, as_record
from raysaas_edge.plan import Plan

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run every round; a failure is written to ``history.json`` too, so that nobody waits for a dead run."""
    plan = Plan.from_json(str(context.run_config["plan"]))
    folder = Path(plan.server["folder"])
    try:
        result = _rounds(grid, plan, folder)
    except Exception as error:
        _write(folder, {"error": f"{type(error).__name__}: {error}"})
        raise
    _write(folder, result)


def _rounds(grid: Grid, plan: Plan, folder: Path) -> dict[str, Any]:
    started, initial = time.time(), load_file(folder / "initial.safetensors")
    strategy = BoundedFedAvg(initial, max_weight_share=plan.max_weight_share, min_nodes=plan.min_nodes)
    validate = _validation(plan, folder)
    clock: list[float] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        loss = validate({name: array.numpy() for name, array in arrays.items()})
        clock.append(time.time() - started)
        (folder / "progress").write_text(str(server_round))
        return MetricRecord({"loss": loss})

    result = strategy.start(
        PromptGrid(grid, enough=plan.min_nodes),
        as_record(initial),
        num_rounds=plan.rounds,
        timeout=plan.round_timeout_s,
        evaluate_fn=evaluate,
    )
    if not any(entry["used"] for entry in strategy.history):
        raise Unavailable(f"No round had a usable update: {strategy.history[-1]['refused']}")
    save_file({name: array.numpy() for name, array in result.arrays.items()}, folder / "weights.safetensors")
    losses = [float(str(metrics["loss"])) for metrics in result.evaluate_metrics_serverapp.values()]
    return {
        "started_at": started,
        "rounds": [
            entry | {"valid_loss": loss, "at_s": round(at, 2)}
            for entry, loss, at in zip(strategy.history, losses[1:], clock[1:], strict=True)
        ],
        "initial_valid_loss": losses[0],
        "first_round_at_s": round(clock[0], 2),
    }


def _validation(plan: Plan, folder: Path) -> Callable[[dict[str, np.ndarray]], float]:
    """A function from weights to the mean loss on the cluster's own held-back rows."""
    import torch

    from raysaas.models import network, steps

    arrays: dict[str, np.ndarray] = load_file(folder / "valid.safetensors")
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    module = network.build(x.shape[1], plan.num_outputs, plan.hidden, plan.dropout)

    def loss(weights: dict[str, np.ndarray]) -> float:
        module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
        return steps.evaluate(module, x, y, task=plan.task)

    return loss


def _write(folder: Path, content: dict[str, Any]) -> None:
    part = folder / "history.part"
    part.write_text(json.dumps(content))
    part.rename(folder / "history.json")
