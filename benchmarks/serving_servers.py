"""The servers that ``bench_serving.py`` compares, each run as ``python serving_servers.py NAME MODEL PORT``.

``MODEL`` is the ONNX file, of raysaas the folder of its bundles. Peers are run by the Python of a venv of their own, so
nothing but the standard library, numpy and onnxruntime is imported here before a server is chosen.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NUM_FIELDS = 30
PEERS = {"litserve": "litserve==0.2.19", "bentoml": "bentoml==1.4.39", "mlserver": "mlserver==1.7.1"}
PATHS = {"mlserver": "/v2/models/bench/infer"}  # of others /bench/predict


class Graph:
    """The bare graph: rows of numbers in, probabilities out."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options)
        self.width = self.session.get_inputs()[0].shape[1]

    def __call__(self, instances: list[dict[str, float]]) -> list[float]:
        return self.rows([list(row.values()) for row in instances])

    def rows(self, rows: Any) -> list[float]:
        """Of numbers in order."""
        import numpy as np

        inputs = np.zeros((len(rows), self.width), np.float32)
        inputs[:, :NUM_FIELDS] = rows
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


def serve_litserve(path: str, port: int) -> None:
    """LitServe, one worker."""
    import litserve

    server = litserve.LitServer(LitApi(api_path="/bench/predict"), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=port, log_level="error", generate_client_file=False)


def serve_bentoml(path: str, port: int) -> None:
    """BentoML, one worker."""
    command = ["serve", "serving_servers:Bento", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--working-dir", str(Path(__file__).parent)]
    env = {**os.environ, "BENCH_BENTO": path, "BENTOML_DO_NOT_TRACK": "True"}
    child = subprocess.Popen([sys.executable, "-m", "bentoml", *command], env=env)
    _stay(child)


def serve_mlserver(path: str, port: int) -> None:
    """MLServer, one process, the row as one tensor."""
    folder = Path(path).parent.with_name("mlserver")  # a bundle holds no other files
    folder.mkdir()
    settings = {"host": "127.0.0.1", "http_port": port, "parallel_workers": 0, "debug": False, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps(settings))
    model = {"name": "bench", "implementation": "serving_servers.Ml", "parameters": {"uri": path}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    env = {**os.environ, "BENCH_ML": path, "PYTHONPATH": str(Path(__file__).parent)}
    child = subprocess.Popen([Path(sys.executable).parent / "mlserver", "start", str(folder)], env=env)
    _stay(child)


def _stay(child: "subprocess.Popen[bytes]") -> None:
    """Until standard input closes, then end the child."""
    sys.stdin.read()
    child.terminate()
    child.wait(30)


if sys.argv[1:2] == ["litserve"]:  # its workers are spawned: they import this module with the same arguments
    import litserve

    class LitApi(litserve.LitAPI):  # type: ignore[misc]
        """LitServe's interface."""

        def setup(self, device: str) -> None:
            """Open the graph."""
            self.graph = Graph(sys.argv[2])

        def decode_request(self, request: dict[str, Any]) -> Any:
            """The rows."""
            return request["instances"]

        def predict(self, x: Any) -> Any:
            """Their scores."""
            return self.graph(x)

        def encode_response(self, output: Any) -> Any:
            """The answer."""
            return {"scores": output}


if os.environ.get("BENCH_BENTO"):
    import bentoml

    @bentoml.service(workers=1)
    class Bento:
        """BentoML's service."""

        def __init__(self) -> None:
            self.graph = Graph(os.environ["BENCH_BENTO"])

        @bentoml.api(route="/bench/predict")
        def predict(self, instances: list[dict[str, float]]) -> dict[str, list[float]]:
            """Scores of rows."""
            return {"scores": self.graph(instances)}


if os.environ.get("BENCH_ML"):
    from mlserver import MLModel
    from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

    class Ml(MLModel):  # type: ignore[misc]
        """MLServer's runtime."""

        async def load(self) -> bool:
            """Open the graph."""
            self.graph = Graph(os.environ["BENCH_ML"])
            return True

        async def predict(self, payload: "InferenceRequest") -> "InferenceResponse":
            """Scores of one tensor [n, fields]."""
            tensor = payload.inputs[0]
            data = [tensor.data[i : i + NUM_FIELDS] for i in range(0, len(tensor.data), NUM_FIELDS)]
            scores = self.graph.rows(data)
            output = ResponseOutput(name="scores", shape=[len(scores)], datatype="FP64", data=scores)
            return InferenceResponse(model_name=self.name, outputs=[output])


def serve_raysaas(folder: str, port: int) -> None:
    """The whole path behind HAProxy, in a head of its own: the apps of ``folder``/apps.json, by name.

    Each is ``{"arm", "replicas", "views"}``, with ``"quota_rps"`` where it has a limit, and ``"idle_s"`` where all of
    its replicas go when nobody has asked for so long. A line ``switch NAME VERSION`` on standard input gives NAME the
    bundle as another version, which is answered by the seconds that it took.
    """
    from raysaas import cluster, entry
    from raysaas.records import Task
    from raysaas.serving.deployment import Deployments
    from raysaas.serving.spec import DEPLOYMENT, AppSpec
    from raysaas.settings import Serve
    from raysaas.stores.ledger import Ledger
    from raysaas.tenancy.keys import new_key

    apps = json.loads((Path(folder) / "apps.json").read_text())
    home = Path(folder) / "home"
    settings = entry.compose([f"home={home}", "cluster.port=0", "cluster.dashboard_port=0", f"serve.port={port}"])
    head = cluster.up(settings)
    try:
        key, digest = new_key()
        Ledger(str(settings.storage.ledger_url)).add_key(digest, "bench", ["predict"])
        deployments = Deployments(head.dashboard_url, home=home, cluster=settings.cluster, serve=Serve(port=port))
        for name, app in apps.items():
            num, rps, idle_s = app["replicas"], app.get("quota_rps", 1e9), app.get("idle_s")
            serve = Serve(
                port=port, min_replicas=0 if idle_s else num, max_replicas=num, scale_down_s=idle_s or 60.0,
                quota_rps=rps, quota_burst=rps,
            )  # fmt: skip
            views = tuple(app["views"])
            spec = AppSpec(use_case=name, task=Task.binary, storage=settings.storage, serve=serve, views=views)
            release = {"sequence": 1, "champion": {"version": 1, **app["arm"]}}
            deployments.apply({
                "name": name, "route_prefix": f"/{name}", "import_path": "raysaas.serving.app:application",
                "args": spec.to_dict(), "deployments": [{"name": DEPLOYMENT, "user_config": release}],
            })  # fmt: skip
        (Path(folder) / "key").write_text(key)
        for line in sys.stdin:
            _, name, number = line.split()
            started = time.perf_counter()
            champion = {"version": int(number), **apps[name]["arm"]}
            deployments.switch(name, {"sequence": int(number), "champion": champion})
            sys.stdout.write(f"{time.perf_counter() - started:.3f}\n")
            sys.stdout.flush()
    finally:
        cluster.down(settings)


SERVERS = {
    "fastapi": serve_fastapi, "serve": serve_plain, "raysaas": serve_raysaas,
    "litserve": serve_litserve, "bentoml": serve_bentoml, "mlserver": serve_mlserver,
}  # fmt: skip

if __name__ == "__main__":
    SERVERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
