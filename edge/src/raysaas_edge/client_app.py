"""The Flower ClientApp of a site: trains the shared network on local rows and answers with weights and two numbers.

Started by a SuperNode for each message; ``rows`` in the node config names the site's Parquet file. Rows stay here.
"""

from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from raysaas.models import network, steps
from raysaas.models.encode import Encoder
from raysaas_edge import rows
from raysaas_edge.plan import Plan

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round at this site."""
    plan = Plan.from_json(str(context.run_config["plan"]))
    x, y = load(plan, Path(str(context.node_config["rows"])))
    weights = next(iter(message.content.array_records.values()))
    round_number = int(str(next(iter(message.content.config_records.values()))["server-round"]))
    trained, loss = fit(
        {name: array.numpy() for name, array in weights.items()},
        x,
        y,
        plan,
        seed=plan.seed + 1000 * round_number + int(context.node_config["index"]),
    )
    arrays = ArrayRecord({name: Array(value) for name, value in trained.items()})
    metrics = MetricRecord({"num-examples": len(y), "loss": loss})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def load(plan: Plan, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The site's rows, encoded: float32 [n, width] and targets [n]."""
    encoder, table = Encoder.from_json(dict(plan.encoder)), rows.read(path)
    x = encoder.dense(rows.columns(table, rows.kinds_of(encoder)))
    y = rows.targets(table.column(rows.LABEL), plan.task, plan.labels, plan.target)
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)), torch.from_numpy(y)


def fit(
    weights: dict[str, np.ndarray], x: torch.Tensor, y: torch.Tensor, plan: Plan, *, seed: int
) -> tuple[dict[str, np.ndarray], float]:
    """Local epochs from ``weights``; returns the new weights and the last epoch's mean loss."""
    torch.manual_seed(seed)
    module = network.build(x.shape[1], plan.num_outputs, plan.hidden, plan.dropout)
    module.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    anchor = [parameter.detach().clone() for parameter in module.parameters()] if plan.mu > 0 else None
    optimizer = torch.optim.AdamW(module.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    generator, loss = torch.Generator().manual_seed(seed), float("nan")
    for _ in range(plan.local_epochs):
        loss = steps.fit_epoch(
            module,
            optimizer,
            x,
            y,
            task=plan.task,
            batch_size=plan.batch_size,
            generator=generator,
            anchor=anchor,
            mu=plan.mu,
        )
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}, loss
