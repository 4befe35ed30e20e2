"""A network on the GPU against ONNX Runtime on one CPU core: ``python benchmarks/bench_gpu.py``.

Both score the same rows from columns to labels (encoding included), in turns, after a warm-up. A line says what one
call takes (median, microseconds), the ratio, and how far the scores are apart at most. Without a GPU it says so and
measures nothing; ``--device cpu`` measures torch on the CPU instead.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from raysaas.models import bundle
from raysaas.models.bundle import Bundle
from raysaas.models.encode import Encoder
from raysaas.models.gpu import claim
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Family, Task

BATCHES, SHAPES, NUM_FIELDS = (1, 16, 256, 1000), ((64, 64), (1024, 1024)), 30
WARM_UP, ROUNDS, CALLS = 20, 15, 20


def pair(folder: Path, hidden: tuple[int, ...], device: str) -> tuple[Bundle, Bundle]:
    """The same network for ONNX Runtime on the CPU and for torch on ``device``."""
    rng = np.random.default_rng(0)
    columns = {f"f{i}": rng.normal(size=500) for i in range(NUM_FIELDS)}
    kinds = dict.fromkeys(columns, "number")
    encoder = Encoder.fit(columns, kinds)
    digest = bundle.save(
        folder, encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.network,
        profile=Profile.fit(columns, kinds, rng.random(500)), network=build(encoder.width, 1, hidden, 0.0, seed=0),
    )  # fmt: skip
    return bundle.load(folder, digest), bundle.load(folder, digest, device)


def took_us(model: Bundle, columns: dict[str, np.ndarray]) -> float:
    """Microseconds of one call, over ``CALLS`` of them."""
    started = time.perf_counter()
    for _ in range(CALLS):
        model.predict(columns)
    return (time.perf_counter() - started) / CALLS * 1e6


def measured(models: tuple[Bundle, Bundle], num: int) -> tuple[float, float, float]:
    """Median microseconds of the CPU and of the device for ``num`` rows, and how far their scores are apart."""
    rng = np.random.default_rng(num)
    columns = {f"f{i}": rng.normal(size=num) for i in range(NUM_FIELDS)}
    for model in models * WARM_UP:
        model.predict(columns)
    rounds = [[took_us(model, columns) for model in models] for _ in range(ROUNDS)]
    apart = np.max(np.abs(models[0].predict(columns).score - models[1].predict(columns).score))
    cpu, there = np.median(rounds, axis=0)
    return float(cpu), float(there), float(apart)


def main() -> None:
    """Print one line per network and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and (why := claim(1.0)):
        print(f"bench_gpu: {why}: nothing was measured; run it on a machine with a GPU.")
        return
    print(f"{'hidden':<12}{'rows':>6}{'onnx/cpu us':>13}{f'torch/{device} us':>15}{'ratio':>8}{'apart':>10}")
    with tempfile.TemporaryDirectory() as folder:
        for hidden in SHAPES:
            models = pair(Path(folder) / str(hidden[0]), hidden, device)
            for num in BATCHES:
                cpu, there, apart = measured(models, num)
                shape = "-".join(map(str, hidden))
                print(f"{shape:<12}{num:>6}{cpu:>13.1f}{there:>15.1f}{cpu / there:>8.2f}{apart:>10.1e}")
            assert models[1].backend == f"torch/{device}", "the device gave up: see the log"


if __name__ == "__main__":
    main()
