"""A noisy neighbour: what one use case notices of another that is asked for ten times its limit.

    python benchmarks/bench_neighbour.py [--limit 100] [--rounds 6] [--seconds 4]

Two use cases of one replica each on one machine, with the same network. One is asked 100 times a second, evenly; the
other as often as its limit allows, and ten times as often, in turn, so that a slow minute of the machine is in both.
Latencies count from when a request was due; what is compared are the medians of the rounds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from bench_serving import INSTANCE, make_model, running
from serving_load import Call, Load, Measured, call

QUIET, NOISY = "bench", "neighbour"
RATE, TIMES = 100.0, 10
LEAD_S = 3.0  # the noisy one starts first: by then the burst that its limit allows is over
AIM = 1.2

Round = tuple[Measured, Measured]  # the quiet one, the noisy one


def both(calls: Mapping[str, Call], noisy_rate: float, seconds: float) -> Round:
    """The quiet use case while the noisy one is asked ``noisy_rate`` times a second."""
    noisy = Load([calls[NOISY]], 4, seconds + LEAD_S, noisy_rate)
    time.sleep(LEAD_S)
    quiet = Load([calls[QUIET]], 4, seconds, RATE).result()
    return quiet, noisy.result()


def show(limit: float, seconds: float, rounds: Mapping[float, Sequence[Round]]) -> None:
    """The medians, and what they say of the aim."""
    p95 = {}
    for rate, measured in rounds.items():
        quiet = [one for one, _ in measured]
        granted = median(noisy.rps - noisy.failed / (seconds + LEAD_S) for _, noisy in measured)
        p95[rate] = median(one.p95 for one in quiet)
        print(
            f"neighbour asked {rate:.0f} times a second, limit {limit:.0f}: {granted:.0f} granted, burst included; "
            f"beside it, at {RATE:.0f} a second: p50 {median(one.p50 for one in quiet):.2f} ms, "
            f"p95 {p95[rate]:.2f} ms ({', '.join(f'{one.p95:.2f}' for one in quiet)}), "
            f"{sum(one.failed for one in quiet)} failed"
        )
    alone, beside = p95.values()
    print(f"p95, neighbour at {TIMES}x its limit / at its limit: {beside / alone:.2f} (aim {AIM})")


def main() -> None:
    """Alternate between the two rates and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        app = {"arm": make_model(folder / "bundle"), "replicas": 1, "views": []}
        apps = {NOISY: app | {"quota_rps": options.limit}, QUIET: app}
        (folder / "apps.json").write_text(json.dumps(apps))
        rates = [options.limit, TIMES * options.limit]
        rounds: dict[float, list[Round]] = {rate: [] for rate in rates}
        with running("raysaas", folder) as server:
            calls = {one: call(server.port, f"/{one}/predict", INSTANCE, server.key) for one in apps}
            both(calls, TIMES * options.limit, 1.0)
            for number in range(options.rounds):
                for rate in rates if number % 2 else reversed(rates):
                    rounds[rate].append(both(calls, rate, options.seconds))
        show(options.limit, options.seconds, rounds)


if __name__ == "__main__":
    main()
