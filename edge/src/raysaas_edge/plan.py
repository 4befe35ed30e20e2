"""What the cluster asks of a site in a federated run, as JSON; it travels in the run config, the same to every site."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raysaas.errors import InputError
from raysaas.records import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Network, encoder and local training of one federated run.

    ``encoder`` is the JSON form of an Encoder; ``labels`` are the classes in the order of the network's outputs (empty
    for regression); ``target`` is mean and standard deviation of a regression's labels; ``mu`` > 0 turns FedAvg's local
    steps into FedProx's (Li et al. 2020). ``server`` is what only the ServerApp reads.
    """

    task: Task
    encoder: Mapping[str, Any]
    labels: tuple[str, ...] = ()
    target: tuple[float, float] = (0.0, 1.0)
    hidden: tuple[int, ...] = (64, 64)
    dropout: float = 0.0
    rounds: int = 3
    local_epochs: int = 1
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    mu: float = 0.0
    seed: int = 0
    max_weight_share: float = 1.0
    min_nodes: int = 2
    round_timeout_s: float = 120.0
    server: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_outputs(self) -> int:
        """Width of the network's last layer."""
        return len(self.labels) if self.task is Task.multiclass else 1

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what :meth:`to_json` wrote; InputError when it is something else."""
        try:
            raw: dict[str, Any] = json.loads(text)
            return cls(
                **raw
                | {
                    "task": Task(raw["task"]),
                    "labels": tuple(raw["labels"]),
                    "target": tuple(raw["target"]),
                    "hidden": tuple(raw["hidden"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"The federated plan cannot be read ({error}): cluster and edge must run the same release."
            raise InputError(message) from error
