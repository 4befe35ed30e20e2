"""What does Ray Train cost? An epoch of our fit against plain torchrun, both over gloo on the same arrays.

    python benchmarks/bench_train.py [--rows 100000] [--features 30] [--epochs 4]

Both sides run 2 processes with one thread, DistributedDataParallel, AdamW, the same network and the same batch size, in
turns in one run. Epoch times leave out the start; the start is reported on its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from raysaas.settings import Settings, Storage
from raysaas.use_case import Examples, Source, UseCase

PLAIN = """
import json, os, sys, time
import numpy as np, torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as loss_of

torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
arrays, epochs, batch, out = np.load(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
shards = [np.ascontiguousarray(arrays[name][rank::world]) for name in ("x", "y", "vx", "vy")]
x, y, vx, vy = map(torch.from_numpy, shards)
rows_in_all = len(arrays["vy"])
layers = [nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1)]
net = nn.Sequential(*layers, nn.Linear(64, 1))
model, times = nn.parallel.DistributedDataParallel(net), []
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)
for _ in range(epochs):
    started = time.perf_counter()
    model.train()
    for rows in torch.randperm(len(x)).split(batch // world):
        loss = loss_of(model(x[rows]).squeeze(-1), y[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    model.eval()
    with torch.no_grad():
        total = loss_of(net(vx).squeeze(-1), vy, reduction="sum")
    dist.all_reduce(total)
    times.append(time.perf_counter() - started)
if rank == 0:
    json.dump({"epochs": times, "loss": float(total) / rows_in_all}, open(out, "w"))
dist.destroy_process_group()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        table = _table(args.rows, args.features)
        results = [_round(table, Path(folder), args.epochs) for _ in range(2)]
    # The first round warms the page cache for both sides.
    _report(*results[-1])


def _round(table: pa.Table, folder: Path, epochs: int) -> tuple[dict[str, float], dict[str, float]]:
    return _ours(table, folder, epochs), _torchrun(table, folder, epochs)


def _ours(table: pa.Table, folder: Path, epochs: int) -> dict[str, float]:
    from raysaas.training import runs, trainer

    chosen = _settings(folder)
    plan = replace(trainer.plan_of(chosen, runs.prepare(chosen, table)), epochs=epochs, patience=epochs)
    started = time.perf_counter()
    state = trainer.run_workers(chosen, plan, table)
    total = time.perf_counter() - started
    return _row(state["seconds"], total, state["losses"][-1][1])


def _torchrun(table: pa.Table, folder: Path, epochs: int) -> dict[str, float]:
    from raysaas.training import runs, trainer
    from raysaas.training.arrays import part

    chosen = _settings(folder)
    plan = trainer.plan_of(chosen, runs.prepare(chosen, table))
    (x, y), (vx, vy) = (plan.tensors(part(table, name)) for name in ("train", "valid"))
    np.savez(folder / "arrays.npz", x=x, y=y, vx=vx, vy=vy)
    (folder / "plain.py").write_text(PLAIN)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", folder / "plain.py",
        folder / "arrays.npz", str(epochs), str(plan.rows_per_step(1)), folder / "plain.json",
    ]  # fmt: skip
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    total = time.perf_counter() - started
    measured = json.loads((folder / "plain.json").read_text())
    return _row(measured["epochs"], total, measured["loss"])


def _row(epochs: list[float], total: float, loss: float) -> dict[str, float]:
    return {"epoch": float(np.median(epochs)), "start": total - sum(epochs), "loss": loss}


def _settings(folder: Path) -> Settings:
    examples = Examples(source="rows", label="label")
    use_case = UseCase(name="bench", sources={"rows": Source(path="none")}, examples=examples)
    return Settings(use_case=use_case, storage=Storage(home=str(folder)))


def _table(num_rows: int, num_features: int) -> pa.Table:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(num_rows, num_features))
    label = np.where(x[:, 0] * x[:, 1] + x[:, 2] + rng.normal(size=num_rows) > 0, "Yes", "No")
    split = np.where(rng.random(num_rows) < 0.1, "valid", "train").astype(object)
    split[:1000] = "test"
    features = {f"f{i}": x[:, i] for i in range(num_features)}
    return pa.table({"split": split.tolist(), "label": label.tolist(), **features})


def _report(ours: dict[str, float], plain: dict[str, float]) -> None:
    print(f"{'':24}{'raysaas':>10}{'torchrun':>10}{'ratio':>8}")
    for key, name in (("epoch", "one epoch, s"), ("start", "everything else, s"), ("loss", "valid loss")):
        print(f"{name:24}{ours[key]:10.3f}{plain[key]:10.3f}{ours[key] / plain[key]:8.2f}")


if __name__ == "__main__":
    main()
