"""FedAvg that does not trust its clients: what it refuses, and how much one client may weigh.

Source: McMahan et al. 2017, https://arxiv.org/abs/1602.05629. Flower's own averaging accepts NaN and whatever number of
examples a client claims.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp.strategy import FedAvg

Arrays = Mapping[str, np.ndarray]

_METRICS = {"num-examples", "loss"}
# Above it a claim is a mistake or an attack, and sums could overflow.
_MAX_EXAMPLES = 1e12


def bounded_shares(num_examples: Sequence[float], max_share: float) -> list[float]:
    """Weights in proportion to ``num_examples``, none above ``max_share``, summing to one.

    What is cut off goes to the others in proportion; where the bound cannot hold (fewer than 1 / ``max_share``
    clients), it is relaxed to equal shares.
    """
    bound = max(max_share, 1.0 / len(num_examples))
    shares, capped = [0.0] * len(num_examples), set[int]()
    while True:
        free = [i for i in range(len(shares)) if i not in capped]
        left, total = 1.0 - bound * len(capped), math.fsum(num_examples[i] for i in free)
        for i in free:
            shares[i] = left * (num_examples[i] / total)
        over = {i for i in free if shares[i] > bound}
        if not over:
            return shares
        capped |= over
        for i in over:
            shares[i] = bound


def fault(update: Arrays, metrics: Mapping[str, Any], reference: Arrays) -> str | None:
    """Why an update is refused, or None when it is usable.

    Usable means the reference's names, shapes and dtypes, finite values, a sane number of examples, and a finite loss.
    """
    if set(update) != set(reference):
        return f"its arrays are {sorted(update)[:5]}, expected {sorted(reference)[:5]}"
    for name, array in update.items():
        found, expected = (f"{each.dtype}{list(each.shape)}" for each in (array, reference[name]))
        if found != expected:
            return f"{name} is {found}, expected {expected}"
        if not np.isfinite(array).all():
            return f"{name} holds NaN or infinity"
    return _metrics_fault(metrics)


def _metrics_fault(metrics: Mapping[str, Any]) -> str | None:
    if set(metrics) != _METRICS:
        return f"its metrics are {sorted(metrics)}, expected {sorted(_METRICS)}"
    count = metrics["num-examples"]
    if isinstance(count, bool) or not isinstance(count, int | float) or not 1 <= count <= _MAX_EXAMPLES:
        return f"num-examples is {count!r}, expected a number from 1 to {_MAX_EXAMPLES:.0e}"
    loss = metrics["loss"]
    if not isinstance(loss, int | float) or not math.isfinite(loss):
        return f"loss is {loss!r}, expected a finite number"
    return None


class BoundedFedAvg(FedAvg):
    """FedAvg over checked updates; ``history`` gets one entry per round: used, refused (with reasons), shares."""

    def __init__(self, reference: Arrays, *, max_weight_share: float, min_nodes: int) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=min_nodes, min_available_nodes=min_nodes)
        self._reference, self._max_share = dict(reference), max_weight_share
        self.history: list[dict[str, Any]] = []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the usable replies; with none, the weights of the last round stay."""
        usable: list[Message] = []
        refused: list[str] = []
        for reply in replies:
            reason = self._reason(reply)
            if reason is None:
                usable.append(reply)
            else:
                refused.append(f"node {reply.metadata.src_node_id}: {reason}")
                log(WARNING, "Round %s refused an update of %s", server_round, refused[-1])
        claimed = [_claim(reply) for reply in usable]
        shares = bounded_shares(claimed, self._max_share) if claimed else []
        for reply, share in zip(usable, shares, strict=True):
            _metrics(reply.content)["num-examples"] = share
        arrays, metrics = super().aggregate_train(server_round, usable)
        self.history.append(
            {
                "round": server_round,
                "used": len(usable),
                "refused": refused,
                "num_examples": claimed,
                "shares": shares,
                "loss": float(metrics["loss"]) if metrics else None,
            }
        )
        return self._as_reference(arrays), metrics

    def _reason(self, reply: Message) -> str | None:
        if reply.has_error():
            return f"it failed: {reply.error.reason}"
        records = reply.content
        if len(records.array_records) != 1 or len(records.metric_records) != 1:
            return "it must hold one array record and one metric record"
        return fault(_arrays(next(iter(records.array_records.values()))), _metrics(records), self._reference)

    def _as_reference(self, arrays: ArrayRecord | None) -> ArrayRecord | None:
        if arrays is None:
            return None
        cast = {name: array.astype(self._reference[name].dtype) for name, array in _arrays(arrays).items()}
        return as_record(cast)


def as_record(arrays: Arrays) -> ArrayRecord:
    """Named arrays as a Flower record."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def _arrays(record: ArrayRecord) -> dict[str, np.ndarray]:
    return {name: array.numpy() for name, array in record.items()}


def _metrics(records: RecordDict) -> MetricRecord:
    return next(iter(records.metric_records.values()))


def _claim(reply: Message) -> float:
    count = _metrics(reply.content)["num-examples"]
    return float(count)
