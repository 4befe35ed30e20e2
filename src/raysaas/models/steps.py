"""One epoch of fitting and one pass of evaluation: the same loops for Ray Train workers and Flower clients."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysaas.records import Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PASS_ROWS = 65_536
MAX_GRADIENT_NORM = 5.0


def fit_epoch(
    module: "nn.Module",
    optimizer: "torch.optim.Optimizer",
    x: "Tensor",
    y: "Tensor",
    *,
    task: Task,
    batch_size: int,
    generator: "torch.Generator | None" = None,
    anchor: "Sequence[Tensor] | None" = None,
    mu: float = 0.0,
) -> float:
    """One shuffled pass of ``x`` [n, width]; returns the mean loss per row, without the proximal term.

    ``y``: float32 0/1 (binary), int64 class index (multiclass) or float32 standardised target (regression), all [n].
    ``anchor`` and ``mu`` add FedProx's mu/2 * |w - anchor|^2 (Li et al. 2020, arXiv:1812.06127). ``generator`` lives on
    the CPU. Under DistributedDataParallel every worker must bring the same number of rows.
    """
    import torch

    module.train()
    total = torch.zeros((), device=x.device)
    order = torch.randperm(len(x), generator=generator).to(x.device)
    for batch in order.split(batch_size):
        loss = _loss(module(x[batch]), y[batch], task)
        objective = loss if anchor is None or mu == 0 else loss + _proximal(module, anchor, mu)
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        total += loss.detach() * len(batch)
    return float(total) / max(len(x), 1)


def evaluate(module: "nn.Module", x: "Tensor", y: "Tensor", *, task: Task) -> float:
    """Mean loss per row without dropout; NaN for no rows. Shapes as in ``fit_epoch``."""
    total = 0.0
    for outputs, part in _passes(module, x):
        total += float(_loss(outputs, y[part], task)) * len(outputs)
    return total / len(x) if len(x) else float("nan")


def predict(
    module: "nn.Module", x: "Tensor", *, task: Task, target: tuple[float, float] = (0.0, 1.0)
) -> NDArray[np.float64]:
    """Probability of the positive label [n], of each label [n, k], or the value [n] scaled back by ``target``.

    ``target`` is the (mean, standard deviation) that training standardised with. Float64, whatever the device.
    """
    import torch

    parts = [outputs.double() for outputs, _ in _passes(module, x)]
    if not parts:
        parts = [torch.zeros(0, module(x).shape[-1])]
    logits = torch.cat(parts).cpu()
    if task is Task.multiclass:
        return np.asarray(logits.softmax(dim=-1).numpy())
    values = logits.squeeze(-1)
    mean, std = target
    return np.asarray((values.sigmoid() if task is Task.binary else values * std + mean).numpy())


def _passes(module: "nn.Module", x: "Tensor") -> "Iterator[tuple[Tensor, slice]]":
    import torch

    module.eval()
    with torch.no_grad():
        for start in range(0, len(x), PASS_ROWS):
            part = slice(start, start + PASS_ROWS)
            yield module(x[part]), part


def _loss(outputs: "Tensor", y: "Tensor", task: Task) -> "Tensor":
    from torch.nn import functional

    if task is Task.multiclass:
        return functional.cross_entropy(outputs, y)
    if task is Task.binary:
        return functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), y)
    return functional.mse_loss(outputs.squeeze(-1), y)


def _proximal(module: "nn.Module", anchor: "Sequence[Tensor]", mu: float) -> Any:
    pairs = zip(module.parameters(), anchor, strict=True)
    return mu / 2 * sum((parameter - fixed.detach()).square().sum() for parameter, fixed in pairs)
