"""Federated runs with Flower's real processes: TLS, node keys, disjoint tenants; and what a dead site does."""

import contextlib
import importlib.util
import json
import os
import signal
import ssl
import threading
import time
from pathlib import Path

import flwr
import httpx
import pyarrow.compute as pc
import pytest
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from google.protobuf.message import Message
from sklearn.metrics import roc_auc_score

from raysaas.errors import Unavailable
from raysaas.federation import job
from raysaas.federation import run as federated
from raysaas.federation.credentials import Credentials
from raysaas.federation.superlink import CONNECTION, Federation, Process, free_ports
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.records import Family, Task
from raysaas.settings import Federated, Model, Settings, Storage
from raysaas.use_case import Examples, Source, UseCase
from raysaas_edge import rows

_toys = importlib.util.spec_from_file_location("_toys", Path(__file__).parents[1] / "federation" / "conftest.py")
assert _toys is not None
assert _toys.loader is not None
toys = importlib.util.module_from_spec(_toys)
_toys.loader.exec_module(toys)


def _settings(home: Path, **changed: object) -> Settings:
    use_case = UseCase(
        name="toy", task=Task.binary, sources={"s": Source()}, examples=Examples(source="s", label="label")
    )
    return Settings(
        use_case=use_case, model=Model(hidden=[16]), storage=Storage(home=str(home)),
        federated=Federated(**({"learning_rate": 0.01, "timeout_s": 240} | changed)),  # type: ignore[arg-type]
    )  # fmt: skip


KINDS = {"usage": "number", "plan": "category", "seats": "integer", "trial": "boolean"}


def _federate(settings: Settings, num_rows: int, out: Path) -> federated.FederatedCandidate:
    table = toys.training_table(num_rows)
    test = table.filter(pc.equal(table["split"], "test"))
    train = rows.columns(table.filter(pc.equal(table["split"], "train")), KINDS)

    def auc(path: Path) -> dict[str, float]:
        scores = bundle.load(path).predict(rows.columns(test, KINDS)).score
        return {"auc": float(roc_auc_score([label == "Yes" for label in test["label"].to_pylist()], scores))}

    problem = job.Problem(encoder=Encoder.fit(train, KINDS), labels=["No", "Yes"])
    return federated.federate(settings, table, out, problem=problem, measure=auc, baseline={"auc": 0.5})


def _flower_processes() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if b"raysaas-federation-" in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
    return found


def test_three_rounds_over_two_sites_learn_and_leave_nothing_behind(tmp_path: Path) -> None:
    before = _flower_processes()
    found = _federate(_settings(tmp_path), 4000, tmp_path)
    assert found.family is Family.federated
    assert found.metrics["auc"] > 0.8
    assert [entry["used"] for entry in found.rounds] == [2, 2, 2]
    assert found.rounds[-1]["valid_loss"] < found.rounds[0]["valid_loss"]
    assert sum(found.sites.values()) == sum(found.rounds[0]["num_examples"])
    meta = bundle.load(found.path, found.digest).manifest["meta"]
    assert (meta["partition_by"], meta["metrics"]) == ("tenant", found.metrics), "what the drift monitor compares with"
    assert set(found.timings) == {"prepare", "start", "submit", "server_app", "rounds", "stop", "save"}
    assert _flower_processes() <= before
    assert "https" in (tmp_path / "logs" / "federation" / "toy" / "superlink.log").read_text()


def _kill_a_site(name: str, delay_s: float) -> threading.Event:
    """Kill the SuperNode of a site, and all its children, that long after it appears."""
    killed, known = threading.Event(), _flower_processes()

    def watch() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed.is_set():
            for pid in _flower_processes() - known:
                with contextlib.suppress(OSError):
                    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")
                    if "flower-supernode" in command and f'site="{name}"' in command:
                        time.sleep(delay_s)
                        os.killpg(pid, signal.SIGKILL)
                        killed.set()
            time.sleep(0.1)

    threading.Thread(target=watch, daemon=True).start()
    return killed


def test_a_dead_site_of_two_fails_the_run_and_stops_the_rest(tmp_path: Path) -> None:
    before, killed = _flower_processes(), _kill_a_site("site-0", delay_s=1.0)
    with pytest.raises(Unavailable, match="1 of 2 SuperNodes died"):
        _federate(_settings(tmp_path), 600, tmp_path)
    assert killed.is_set()
    assert not (tmp_path / "federated").exists()
    assert _flower_processes() <= before


def test_of_three_sites_one_may_die_and_the_rest_go_on(tmp_path: Path) -> None:
    killed = _kill_a_site("site-2", delay_s=8.0)
    settings = _settings(tmp_path, num_nodes=3, rounds=2)
    found = _federate(settings, 600, tmp_path)
    assert killed.is_set()
    assert found.rounds[-1]["used"] == 2
    assert bundle.load(found.path).digest == found.digest


def _ask(federation: Federation, path: str, message: Message, **headers: str) -> httpx.Response:
    """What Flower's own client sends to the SuperLink, with other headers."""
    known = {"flwr-package-name": "flwr", "flwr-package-version": flwr.__version__, "flwr-component-name": "flwr CLI"}
    return httpx.post(
        f"https://{federation.address}/v1/{path}",
        content=message.SerializeToString(),
        headers={"content-type": "application/protobuf"} | known | headers,
        verify=ssl.create_default_context(cafile=str(federation.credentials.ca)),
    )


def _turns_away_whoever_lacks_its_secrets(federation: Federation) -> None:
    listed = json.loads(federation.flwr("list", CONNECTION, "--format", "json"))
    assert listed["runs"] == []
    token = federation.credentials.control.read_text()
    bearers = {"": 401, "Bearer": 401, "Bearer noop": 401, f"Bearer {token[:-1]}": 401, f"Bearer {token}": 200}
    for bearer, status in bearers.items():
        headers = {"authorization": bearer} if bearer else {}
        assert _ask(federation, "control/list-runs", ListRunsRequest(), **headers).status_code == status
    for path, message in (("start-run", StartRunRequest()), ("register-node", RegisterNodeRequest())):
        assert _ask(federation, f"control/{path}", message).status_code == 401
    assert _ask(federation, "runtime/acquire-task", AcquireTaskRequest()).status_code == 401
    (federation.home / "credentials.yaml").rename(federation.home / "away.yaml")
    with pytest.raises(Unavailable, match="flwr list"):
        federation.flwr("list", CONNECTION)


def test_strangers_are_turned_away_callers_and_nodes(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    with Federation(home, tmp_path / "logs", {"site-0": tmp_path / "rows.parquet"}) as federation:
        _turns_away_whoever_lacks_its_secrets(federation)
        stranger = Credentials.create(home / "stranger-keys", 1).node_keys[0]
        (port,) = free_ports(1)
        command = federation._node_command(0, "site-0", port)
        command[command.index("--auth-supernode-private-key") + 1] = str(stranger)
        process = Process("stranger", command, home / "stranger", tmp_path / "stranger.log")
        try:
            deadline = time.monotonic() + 60
            while process.alive and time.monotonic() < deadline:
                time.sleep(0.2)
            assert not process.alive
            assert "SuperNode ID" not in process.log.read_text()
        finally:
            process.signal(signal.SIGKILL)
            process.reap(timeout_s=1.0)
        federation.check(min_nodes=1)
