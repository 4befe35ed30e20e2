"""Online prediction: the full path of raysaas against bare FastAPI + uvicorn and plain Ray Serve, same ONNX graph.

    python benchmarks/bench_serving.py [--seconds 3] [--only fastapi,serve,raysaas]

Each server runs one process (one replica) and answers one row of 30 numbers; servers run one after the other, so that
none takes CPU from another. The client is keep-alive sockets in a process of its own. FastAPI and plain Serve run the
graph only; raysaas adds key, quota, validation, encoding, split and journal.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NUM_FIELDS = 30
CONCURRENCY = (1, 16, 64)
ROW = {f"f{i}": round(0.1 * i, 3) for i in range(NUM_FIELDS)}
BODY = json.dumps({"instances": [ROW]}).encode()


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
        folder,
        encoder=encoder,
        task=Task.binary,
        labels=["no", "yes"],
        family=Family.network,
        profile=profile,
        network=network,
    )
    return {"uri": str(folder), "digest": digest}


class Graph:
    """The bare graph: rows of numbers in, probabilities out."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.width = self.session.get_inputs()[0].shape[1]

    def __call__(self, instances: list[dict[str, float]]) -> list[float]:
        inputs = np.zeros((len(instances), self.width), np.float32)
        inputs[:, :NUM_FIELDS] = [list(row.values()) for row in instances]
        return self.session.run(None, {"inputs": inputs})[0][:, 0].tolist()


def serve_fastapi(path: str, port: int) -> None:
    """One uvicorn process."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        instances: list[dict[str, float]]

    app, graph = FastAPI(), Graph(path)

    @app.post("/bench/predict")
    async def predict(body: Body) -> dict[str, list[float]]:
        return {"scores": graph(body.instances)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def serve_plain(path: str, port: int) -> None:
    """Ray Serve as it comes, one replica."""
    import ray
    from ray import serve
    from starlette.requests import Request

    ray.init("local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})

    @serve.deployment
    class Model:
        def __init__(self) -> None:
            self.graph = Graph(path)

        async def __call__(self, request: Request) -> dict[str, list[float]]:
            return {"scores": self.graph((await request.json())["instances"])}

    serve.run(Model.bind(), route_prefix="/bench")
    time.sleep(3600)


def serve_raysaas(folder: str, port: int) -> None:
    """The whole path behind HAProxy, in a head of its own."""
    from raysaas import cluster, entry
    from raysaas.records import Task
    from raysaas.serving.deployment import Deployments
    from raysaas.serving.spec import DEPLOYMENT, AppSpec
    from raysaas.settings import Serve
    from raysaas.stores.ledger import Ledger
    from raysaas.tenancy.keys import new_key

    arm = json.loads((Path(folder) / "arm.json").read_text())
    home = Path(folder) / "home"
    settings = entry.compose([f"home={home}", "cluster.port=0", "cluster.dashboard_port=0", f"serve.port={port}"])
    head = cluster.up(settings)
    try:
        key, digest = new_key()
        Ledger(str(settings.storage.ledger_url)).add_key(digest, "bench", ["predict"])
        (Path(folder) / "key").write_text(key)
        serve = Serve(port=port, max_replicas=1, quota_rps=1e9, quota_burst=1e9)
        spec = AppSpec(use_case="bench", task=Task.binary, storage=settings.storage, serve=serve)
        release = {"sequence": 1, "champion": {"version": 1, **arm}}
        deployments = Deployments(head.dashboard_url, home=home, cluster=settings.cluster, serve=serve)
        deployments.apply({
            "name": "bench", "route_prefix": "/bench", "import_path": "raysaas.serving.app:application",
            "args": spec.to_dict(), "deployments": [{"name": DEPLOYMENT, "user_config": release}],
        })  # fmt: skip
        sys.stdin.read()
    finally:
        cluster.down(settings)


SERVERS = {"fastapi": serve_fastapi, "serve": serve_plain, "raysaas": serve_raysaas}


async def _connection(port: int, request: bytes, until: float, latencies: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            # HAProxy closes idle connections when it reloads its servers: any HTTP client connects again.
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode() + (await reader.read(500)).decode())
        lower = head.lower()
        if b"content-length:" in lower:
            await reader.readexactly(int(lower.split(b"content-length:")[1].split(b"\r\n")[0]))
        else:
            while (size := int(await reader.readline(), 16)) >= 0:
                await reader.readexactly(size + 2)
                if size == 0:
                    break
        latencies.append(time.perf_counter() - started)
    writer.close()


def load(port: int, key: str, num: int, seconds: float, results: "multiprocessing.Queue[list[float]]") -> None:
    """Send from ``num`` connections for ``seconds``; put all latencies on the queue."""
    import uvloop

    lines = [
        "POST /bench/predict HTTP/1.1",
        "Host: bench",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
    ]
    request = "\r\n".join([*lines, f"Authorization: Bearer {key}", "", ""]).encode() + BODY
    latencies: list[float] = []

    async def main() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_connection(port, request, until, latencies) for _ in range(num)))

    uvloop.run(main())
    results.put(latencies)


def measure(port: int, key: str, num: int, seconds: float) -> tuple[float, float, float]:
    """Requests a second, p50 and p99 in milliseconds."""
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[list[float]] = context.Queue()
    client = context.Process(target=load, args=(port, key, num, seconds, results))
    client.start()
    latencies = sorted(results.get(timeout=seconds + 30))
    client.join()
    p99 = latencies[int(len(latencies) * 0.99)]
    return len(latencies) / seconds, statistics.median(latencies) * 1e3, p99 * 1e3


def run(name: str, folder: Path, seconds: float) -> dict[int, tuple[float, float, float]]:
    """Start one server, measure it at every concurrency, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argument = folder if name == "raysaas" else folder / "bundle" / "model.onnx"
    command = [sys.executable, __file__, "--server", name, str(argument), str(port)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    with (folder / f"{name}.log").open("wb") as log:
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, env=env)
    try:
        key = _wait_ready(server, port, folder, name)
        measure(port, key, 4, 1.0)
        return {num: measure(port, key, num, seconds) for num in CONCURRENCY}
    finally:
        if server.stdin:
            server.stdin.close()
        if name != "raysaas":
            server.terminate()
        server.wait(timeout=60)


def _wait_ready(server: "subprocess.Popen[bytes]", port: int, folder: Path, name: str) -> str:
    import httpx

    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        place = folder / "key"
        key = place.read_text() if name == "raysaas" and place.exists() else ""
        try:
            headers = {"Authorization": f"Bearer {key or 'none'}", "Content-Type": "application/json"}
            if httpx.post(f"http://127.0.0.1:{port}/bench/predict", content=BODY, headers=headers).status_code == 200:
                return key
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    log = (folder / f"{name}.log").read_text()[-2000:]
    raise RuntimeError(f"{name} did not come up: {log}")


def main() -> None:
    """Run the servers one after the other and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--only", default=",".join(SERVERS))
    parser.add_argument("--server", nargs=3, metavar=("NAME", "MODEL", "PORT"))
    options = parser.parse_args()
    if options.server:
        name, model, port = options.server
        SERVERS[name](model, int(port))
        return
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        (Path(folder) / "arm.json").write_text(json.dumps(make_model(Path(folder) / "bundle")))
        measured = {name: run(name, Path(folder), options.seconds) for name in options.only.split(",")}
    print(f"{'server':<10}" + "".join(f"{f'c={c} rps':>12}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}" for c in CONCURRENCY))
    base = measured.get("fastapi") or next(iter(measured.values()))
    for name, row in measured.items():
        cells = [f"{r:>12.0f}{p50:>9.2f}{p99:>9.2f}{r / base[c][0]:>6.2f}x" for c, (r, p50, p99) in row.items()]
        print(f"{name:<10}" + "".join(cells))


if __name__ == "__main__":
    main()
