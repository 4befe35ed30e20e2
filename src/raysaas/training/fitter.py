"""The fit of a network on any number of ranks: epochs, early stopping that all agree on, a resumable state."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raysaas.models import network, steps
from raysaas.models.encode import Encoder
from raysaas.training.arrays import Target, columns

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]

STATE_FILE = "state.pt"
MIN_STEPS_PER_EPOCH, MAX_STEPS_PER_EPOCH = 20, 400
MIN_BATCH = 16
LAST_RATE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a worker must know to fit one network; ``batch_size`` counts the rows of all workers together."""

    use_case: str
    encoder: Encoder
    target: Target
    hidden: tuple[int, ...]
    dropout: float
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    patience: int
    seed: int
    num_rows: int
    checkpoint_s: float = 10.0

    def rows_per_step(self, world: int) -> int:
        """Rows of one worker's batch: an epoch has some twenty steps for small sets, four hundred for long ones."""
        largest = max(self.batch_size, self.num_rows // MAX_STEPS_PER_EPOCH)
        total = min(largest, max(MIN_BATCH, self.num_rows // MIN_STEPS_PER_EPOCH))
        return max(1, total // world)

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch: half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983) down to 5 %."""
        return self.learning_rate * (LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * epoch / self.epochs)) / 2)

    def tensors(self, table: pa.Table, device: "torch.device | str" = "cpu") -> "tuple[Tensor, Tensor]":
        """Encoded inputs [n, width] and labels [n] of training set rows, on ``device``."""
        import torch

        x = torch.from_numpy(self.encoder.dense(columns(table)))
        return x.to(device), torch.from_numpy(self.target.encode(table)).to(device)


class Fitter:
    """The state of one fit, equal on all ranks after each epoch; ``best`` are the weights with the least valid loss.

    The state is a pure function of plan, data and number of ranks: an epoch seeds its own shuffling and dropout, so a
    resumed fit ends with the weights of an uninterrupted one.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        rank: int = 0,
        world: int = 1,
        device: "torch.device | str" = "cpu",
        wrap: "Callable[[nn.Module], nn.Module] | None" = None,
    ) -> None:
        import torch

        self.plan, self.rank, self.world, self.device = plan, rank, world, torch.device(device)
        self.module: nn.Module = network.build(
            plan.encoder.width, plan.target.outputs, plan.hidden, plan.dropout, seed=plan.seed
        )
        self.replica = wrap(self.module) if wrap else self.module.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay
        )
        self.best: dict[str, Tensor] = {}
        self.epoch, self.best_epoch, self.best_loss = 0, 0, math.inf
        self.starts: list[int] = [0]
        self.losses: list[list[float]] = []
        self.seconds: list[float] = []

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or ``patience`` of them brought nothing."""
        return self.epoch >= self.plan.epochs or self.epoch - self.best_epoch >= self.plan.patience

    def step(self, train: "Chunks", valid: "Chunks", wish: bool = False) -> bool:
        """One epoch and its verdict; returns whether any rank wished for a checkpoint: all must agree on barriers."""
        started = time.perf_counter()
        fitted = self._fit(train)
        measured = self._measure(valid)
        sums = self._sum(*fitted, *measured, float(wish))
        self.seconds.append(time.perf_counter() - started)
        train_loss = sums[0] / max(sums[1], 1)
        valid_loss = sums[2] / sums[3] if sums[3] else train_loss
        self.epoch += 1
        self.losses.append([train_loss, valid_loss])
        if valid_loss < self.best_loss or not self.best:
            self.best_epoch, self.best_loss = self.epoch, valid_loss
            self.best = {name: value.detach().cpu().clone() for name, value in self.module.state_dict().items()}
        return sums[4] > 0

    def save(self, folder: Path) -> None:
        """Write the whole state; it holds tensors, numbers and lists only, so that ``weights_only`` can load it."""
        import torch

        state = {
            "module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best,
            "epoch": self.epoch, "best_epoch": self.best_epoch, "best_loss": self.best_loss,
            "starts": self.starts, "losses": self.losses, "seconds": self.seconds,
        }  # fmt: skip
        torch.save(state, folder / STATE_FILE)

    def load(self, folder: Path) -> None:
        """Go on from a saved state."""
        state = read_state(folder, self.device)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best = {name: value.cpu() for name, value in state["best"].items()}
        self.epoch, self.best_epoch, self.best_loss = state["epoch"], state["best_epoch"], state["best_loss"]
        self.starts, self.losses = [*state["starts"], self.epoch], state["losses"]
        self.seconds = state["seconds"]

    def _fit(self, train: "Chunks") -> tuple[float, float]:
        import torch

        seed = (self.plan.seed * 100_003 + self.epoch) * 1009 + self.rank
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.epoch)
        total = rows = 0.0
        # bfloat16 needs no loss scaling, unlike float16.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            for x, y in train():
                loss = steps.fit_epoch(
                    self.replica, self.optimizer, x, y, task=self.plan.target.task,
                    batch_size=self.plan.rows_per_step(self.world), generator=generator,
                )  # fmt: skip
                total, rows = total + loss * len(x), rows + len(x)
        return total, rows

    def _measure(self, valid: "Chunks") -> tuple[float, float]:
        total = rows = 0.0
        for x, y in valid():
            if len(x):
                loss = steps.evaluate(self.module, x, y, task=self.plan.target.task)
                total, rows = total + loss * len(x), rows + len(x)
        return total, rows

    def _sum(self, *values: float) -> list[float]:
        import torch

        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]


def read_state(folder: Path, device: "torch.device | str" = "cpu") -> dict[str, Any]:
    """The state that ``Fitter.save`` wrote, read without unpickling objects."""
    import torch

    state: dict[str, Any] = torch.load(folder / STATE_FILE, map_location=device, weights_only=True)
    return state


def limit_threads(device: str) -> None:
    """One torch thread on ``cpu``: workers share a machine, where more threads than reserved CPUs only fight."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)
