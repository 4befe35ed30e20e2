"""Online prediction: the full path of raysaas against the bare model elsewhere, same ONNX graph, one process each.

    python benchmarks/bench_serving.py [--seconds 3] [--only fastapi,raysaas] [--peers FOLDER] [--sustained 60]

One row of 30 numbers in JSON at 1, 16 and 64 keep-alive connections. Servers run one after the other, so that none
takes CPU from another. The others run the graph only; raysaas adds key, quota, validation, encoding, split and journal.
LitServe, BentoML and MLServer run in virtual environments of their own under ``--peers``, made when they are not there;
one that does not install is left out. Then raysaas alone: by entity, two use cases for a minute, a version switch
under load, and the first answer when there was no replica.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from serving_load import Call, Load, Measured, call, measure
from serving_servers import NUM_FIELDS, PATHS, PEERS, SERVERS

CONCURRENCY = (1, 16, 64)
ROW = {f"f{i}": round(0.1 * i, 3) for i in range(NUM_FIELDS)}
INSTANCE = {"instances": [ROW]}
ENTITY = {"entities": ["account-7"]}
TENSOR = {"inputs": [{"name": "x", "shape": [1, NUM_FIELDS], "datatype": "FP64", "data": list(ROW.values())}]}
VIEWS = ["usage", "billing", "support"]
AIM_P50, AIM_RPS, AIM_SERVE, AIM_ENTITY, AIM_TAIL, AIM_SWITCH_S = 1.5, 1.0, 10, 1.3, 10, 2.0


def make_model(folder: Path) -> dict[str, str]:
    """A 30-64-64-1 network as a bundle; returns its arm."""
    from raysaas.models import bundle
    from raysaas.models.encode import Encoder
    from raysaas.models.network import build
    from raysaas.models.profile import Profile
    from raysaas.records import Family, Task

    rng = np.random.default_rng(0)
    columns = {name: rng.normal(size=500) for name in ROW}
    kinds = dict.fromkeys(columns, "number")
    encoder = Encoder.fit(columns, kinds)
    network = build(encoder.width, 1, [64, 64], 0.0, seed=0)
    profile = Profile.fit(columns, kinds, rng.random(500))
    digest = bundle.save(
        folder, encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.network, profile=profile,
        network=network,
    )  # fmt: skip
    return {"uri": str(folder), "digest": digest}


def write_features(folder: Path) -> None:
    """The row's numbers online, ten in each of three views, for 1,000 entities."""
    from datetime import UTC, datetime

    import pyarrow as pa

    from raysaas.settings import Storage
    from raysaas.stores.online import OnlineStore

    home = folder / "home"
    home.mkdir(exist_ok=True)
    store, names = OnlineStore(str(Storage(home=str(home)).online_url)), list(ROW)
    when = pa.array([datetime.now(UTC)] * 1000, pa.timestamp("us", "UTC"))
    for i, view in enumerate(VIEWS):
        own = {name: [ROW[name]] * 1000 for name in names[10 * i : 10 * i + 10]}
        keys = {"tenant": ["bench"] * 1000, "entity": [f"account-{n}" for n in range(1000)], "event_time": when}
        store.write(view, pa.table(keys | {"known_at": when} | own))
    store.close()


class Running(NamedTuple):
    """A server that answers: its process, port and key."""

    process: "subprocess.Popen[bytes]"
    port: int
    key: str


@contextmanager
def running(name: str, folder: Path, python: str = sys.executable) -> Iterator[Running]:
    """Start one server, wait until it answers, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = folder if name == "raysaas" else folder / "bundle" / "model.onnx"
    script = Path(__file__).parent / "serving_servers.py"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    (folder / "key").unlink(missing_ok=True)
    with (folder / f"{name}.log").open("wb") as log:
        command = [python, str(script), name, str(model), str(port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE if name == "raysaas" else log, "stderr": log}
        server = subprocess.Popen(command, env=env, cwd=folder, **pipes)
    try:
        yield Running(server, port, _wait_ready(server, port, folder, name))
    finally:
        server.stdin.close()
        if name in ("fastapi", "serve", "litserve"):
            server.terminate()
        server.wait(timeout=60)


def _wait_ready(server: "subprocess.Popen[bytes]", port: int, folder: Path, name: str) -> str:
    import httpx

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        place = folder / "key"
        key = place.read_text() if name == "raysaas" and place.exists() else "none"
        try:
            path, body = _path(name), TENSOR if name == "mlserver" else INSTANCE
            answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, headers={"Authorization": f"Bearer {key}"})
            if answer.status_code == 200:
                return key
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise RuntimeError(f"{name} did not come up: {(folder / f'{name}.log').read_text()[-2000:]}")


def _path(name: str) -> str:
    return PATHS.get(name, "/bench/predict")


def compare(name: str, folder: Path, seconds: float, python: str = sys.executable) -> dict[int, Measured]:
    """One server at every concurrency."""
    with running(name, folder, python) as server:
        calls = [call(server.port, _path(name), TENSOR if name == "mlserver" else INSTANCE, server.key)]
        measure(calls, 4, 1.0)
        return {num: measure(calls, num, seconds) for num in CONCURRENCY}


def peer_python(name: str, folder: Path) -> str | None:
    """The Python of a peer's own environment, made when it is not there; None when it does not install."""
    home = folder / f"venv-{name}"
    python = home / "bin" / "python"
    if not (home / "installed").exists():
        shutil.rmtree(home, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = subprocess.run([python, "-m", "pip", "install", "-q", PEERS[name], "onnxruntime==1.31.1"], check=False)
        if pip.returncode:
            print(f"{name}: {PEERS[name]} does not install here")
            return None
        (home / "installed").touch()
    return str(python)


def show(measured: Mapping[str, Mapping[int, Measured]]) -> None:
    """The table and what it says of the aims."""
    print(f"{'server':<10}" + "".join(f"{f'c={c} rps':>12}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}" for c in CONCURRENCY))
    base = measured.get("fastapi") or next(iter(measured.values()))
    for name, row in measured.items():
        cells = [f"{m.rps:>12.0f}{m.p50:>9.2f}{m.p99:>9.2f}{m.rps / base[c].rps:>6.2f}x" for c, m in row.items()]
        print(f"{name:<10}" + "".join(cells))
    ours = measured.get("raysaas")
    if ours is None:
        return
    if "fastapi" in measured:
        print(f"p50 at c=1, raysaas / fastapi: {ours[1].p50 / base[1].p50:.2f} (aim {AIM_P50})")
    aims = {"fastapi": f"{AIM_RPS} at c=16 and 64", "serve": f"{AIM_SERVE} at c=16"}
    for name in [name for name in measured if name != "raysaas"]:
        ratios = [f"{ours[c].rps / m.rps:.1f} at c={c}" for c, m in measured[name].items()]
        print(f"rps, raysaas / {name}: {', '.join(ratios)} (aim: {aims.get(name, 'ahead')})")


def alone(folder: Path, arm: Mapping[str, Any], seconds: float, sustained: float) -> None:
    """By entity against by instance; two use cases of two replicas; a switch under load."""
    write_features(folder)
    apps = {name: {"arm": arm, "replicas": 2, "views": VIEWS} for name in ("bench", "other")}
    (folder / "apps.json").write_text(json.dumps(apps))
    with running("raysaas", folder) as server:
        kinds = {"instance": INSTANCE, "entity": ENTITY}
        calls = {kind: call(server.port, "/bench/predict", body, server.key) for kind, body in kinds.items()}
        _entity(calls, seconds)
        _sustained([call(server.port, f"/{name}/predict", INSTANCE, server.key) for name in apps], sustained)
        background = Load([calls["instance"]], 8, 12.0)
        switches = ", ".join(f"{_switch(server, number):.2f}" for number in (2, 3, 4))
        under = background.result()
        print(f"version switch under load: {switches} s (aim {AIM_SWITCH_S}); {under.failed} requests failed")


def cold(folder: Path, arm: Mapping[str, Any]) -> None:
    """The first answer when there is no replica, three times."""
    import httpx

    (folder / "apps.json").write_text(json.dumps({"bench": {"arm": arm, "replicas": 1, "views": [], "idle_s": 3.0}}))
    took = []
    with running("raysaas", folder) as server:
        for _ in range(3):
            deadline = time.monotonic() + 60
            while _memory():
                if time.monotonic() > deadline:
                    raise RuntimeError("replicas stay, those of another head maybe")
                time.sleep(0.2)
            time.sleep(2.0)
            started = time.perf_counter()
            url, headers = f"http://127.0.0.1:{server.port}/bench/predict", {"Authorization": f"Bearer {server.key}"}
            httpx.post(url, json=INSTANCE, headers=headers, timeout=60).raise_for_status()
            took.append(time.perf_counter() - started)
    print(f"from no replica to the first answer: {', '.join(f'{seconds:.1f}' for seconds in took)} s")


def _entity(calls: Mapping[str, Call], seconds: float) -> None:
    for one in calls.values():
        measure([one], 4, 1.0)
    p50 = {kind: measure([one], 1, seconds).p50 for kind, one in calls.items()}
    said = ", ".join(f"by {kind} {ms:.3f} ms" for kind, ms in p50.items())
    print(f"p50 at c=1, 3 views in SQLite: {said}; ratio {p50['entity'] / p50['instance']:.2f} (aim {AIM_ENTITY})")


def _sustained(calls: Sequence[Call], seconds: float) -> None:
    measure(calls, 8, 3.0)
    before = _memory()
    load = measure(calls, 8, seconds)
    print(f"2 use cases x 2 replicas for {seconds:.0f} s: {load.rps:.0f} rps, {load.failed} requests failed")
    print(f"p99 / p50: {load.p99:.2f} / {load.p50:.2f} ms = {load.p99 / load.p50:.1f} (aim {AIM_TAIL})")
    grown = ", ".join(f"{before.get(pid, 0):.0f} -> {mb:.0f}" for pid, mb in _memory().items())
    print(f"resident memory of the replicas, MB: {grown}")


def _switch(server: Running, number: int) -> float:
    time.sleep(1.5)
    assert server.process.stdin is not None
    assert server.process.stdout is not None
    server.process.stdin.write(f"switch bench {number}\n".encode())
    server.process.stdin.flush()
    while line := server.process.stdout.readline():
        try:
            return float(line)
        except ValueError:  # Ray's own words
            continue
    raise RuntimeError("the switch failed")


def _memory() -> dict[int, float]:
    found = [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or [])]
    return {p.pid: p.memory_info().rss / 1e6 for p in found}


def main() -> None:
    """Run the servers one after the other and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sustained", type=float, default=60.0, help="0 leaves out what is raysaas alone")
    parser.add_argument("--only", default=",".join(SERVERS))
    parser.add_argument("--peers", type=Path, default=Path("var/peers"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as name:
        folder = Path(name)
        arm = make_model(folder / "bundle")
        (folder / "apps.json").write_text(json.dumps({"bench": {"arm": arm, "replicas": 1, "views": []}}))
        measured = {}
        for server in options.only.split(","):
            python = peer_python(server, options.peers.resolve()) if server in PEERS else sys.executable
            if python:
                measured[server] = compare(server, folder, options.seconds, python)
        show(measured)
        if options.sustained:
            alone(folder, arm, options.seconds, options.sustained)
            cold(folder, arm)


if __name__ == "__main__":
    main()
