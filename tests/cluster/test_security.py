"""The door from outside: real HTTP through HAProxy and straight to a replica, sockets that lie, ports, logs."""

import gzip
import itertools
import json
import os
import re
import socket
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest
import ray
import schemathesis
import tritonclient.http as triton
from schemathesis.generation import GenerationMode
from tests.cluster.fuzz import call_often
from tests.cluster.raw_http import BUILT_IN, LIES, problem_of, said, statuses
from tritonclient.utils import InferenceServerException

from raysaas import access, cluster
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Arm, Family, Release, Task
from raysaas.serving.deployment import Deployments, release_config
from raysaas.serving.spec import DEPLOYMENT, AppSpec, EventSource
from raysaas.settings import Serve
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import new_key
from raysaas.use_case import Column, ColumnType, Source

NAME, OTHER = "door_test", "other_door"
IMPORT = "raysaas.serving.app:application"
KINDS = {"amount": "number", "visits": "integer", "vip": "boolean", "plan": "category"}
ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
CONTRACT = {
    "amount": Column(min=0, max=1e6), "visits": Column(type=ColumnType.integer, required=True),
    "plan": Column(type=ColumnType.category, values=["free", "pro"]),
}  # fmt: skip
ORDERS = Source(
    events=True, tenant="account", entity="user",
    columns={"account": Column(type=ColumnType.text), "user": Column(type=ColumnType.text), "amount": Column(min=0)},
)  # fmt: skip
CALLS = int(os.environ.get("RAYSAAS_FUZZ_CALLS", "300"))
# Ports of one process on all interfaces: Ray's gRPC of the worker, and Serve's of a replica.
MOST_OUTSIDE = {"ray::worker": 1, "ray::ProxyActor": 1, "ray::ServeReplica": 2}
SECRET = "Zx9SecretValue7Qk"


def arm(out: Path) -> Arm:
    rng = np.random.default_rng(0)
    data = {
        "amount": rng.normal(10, 3, 100), "visits": rng.integers(0, 9, 100).astype(float),
        "vip": rng.integers(0, 2, 100).astype(float), "plan": rng.choice(["free", "pro"], 100).astype(object),
    }  # fmt: skip
    encoder = Encoder.fit(data, KINDS)
    digest = bundle.save(
        out, encoder=encoder, task=Task.binary, labels=["No", "Yes"], family=Family.network,
        profile=Profile.fit(data, KINDS, rng.random(100)), network=build(encoder.width, 1, [8], 0.0, seed=0),
    )  # fmt: skip
    return Arm(version=1, uri=str(out), digest=digest)


@pytest.fixture(scope="module")
def served(ray_cluster: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One replica behind HAProxy, keys of two tenants, and the replica's own port."""
    platform, storage = ray_cluster, ray_cluster.settings.storage
    ledger, keys = Ledger(storage.ledger_url), {}
    for tenant, scopes, end in (("acme", ["predict", "feedback", "events"], None), ("umbrella", ["predict"], None),
                                ("sender", ["events"], None), ("slow", ["predict"], None),
                                ("gone", ["predict"], datetime.now(UTC) - timedelta(seconds=1))):  # fmt: skip
        keys[tenant], digest = new_key()
        ledger.add_key(digest, tenant, scopes, end)
    port = platform.head.port
    serve = Serve(port=port, min_replicas=1, max_replicas=1, max_body_bytes=100_000, quota_rps=1e6, quota_burst=1e6)
    made = arm(tmp_path_factory.mktemp("security") / "b1")
    release = Release(use_case=NAME, sequence=1, champion=made, actor="t", reason="t", at=datetime.now(UTC))
    spec = AppSpec(use_case=NAME, task=Task.binary, storage=storage, serve=serve, contract=CONTRACT,
                   events={"orders": EventSource.of(ORDERS)})  # fmt: skip
    deployments = Deployments(
        platform.head.dashboard_url, home=storage.home, cluster=platform.settings.cluster, serve=serve
    )
    deployments.apply({
        "name": NAME, "route_prefix": f"/{NAME}", "import_path": IMPORT, "args": spec.to_dict(),
        "deployments": [{"name": DEPLOYMENT, "user_config": release_config(release)}],
    }, timeout_s=90)  # fmt: skip
    flags = cluster.environment(platform.settings, platform.head)
    first, last = (int(flags[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    (replica,) = deployments.health(NAME)
    listening = psutil.Process(replica["pid"]).net_connections("tcp")
    (direct,) = {c.laddr.port for c in listening if c.status == psutil.CONN_LISTEN} & set(range(first, last + 1))
    yield SimpleNamespace(
        keys=keys, deployments=deployments, storage=storage, platform=platform, host=f"127.0.0.1:{port}",
        doors={"proxy": port, "replica": direct}, url=f"{platform.head.url}/{NAME}", settings=platform.settings,
    )  # fmt: skip
    deployments.remove(NAME)


@pytest.fixture(params=["proxy", "replica"])
def door(request: pytest.FixtureRequest, served: SimpleNamespace) -> int:
    return int(served.doors[request.param])


@pytest.fixture(scope="module")
def slow(served: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """Clients that never finish: half a header, half a body, at both doors, from the first of these tests on."""
    head = f"POST /{NAME}/predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.keys['slow']}\r\n"
    sockets: dict[str, list[socket.socket]] = {}
    for name, port in served.doors.items():
        for what, text in (("header", head), ("body", head + "Content-Length: 999\r\n\r\n{")):
            sockets[f"{name} {what}"] = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
            for one in sockets[f"{name} {what}"]:
                one.sendall(text.encode())
    yield SimpleNamespace(sockets=sockets, since=time.monotonic())
    for one in (one for many in sockets.values() for one in many):
        one.close()


def request(
    served: SimpleNamespace, *lines: str, path: str = "/predict", body: bytes | None = None, length: bool = True
) -> bytes:
    body = json.dumps({"instances": [ROW]}).encode() if body is None else body
    given = [f"POST /{NAME}{path} HTTP/1.1", "Host: x", f"Authorization: Bearer {served.keys['acme']}", *lines]
    given += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*given, "Connection: close", "", ""]).encode() + body


@pytest.mark.usefixtures("slow")
def test_slow_clients_do_not_keep_others_from_their_answers(served: SimpleNamespace, door: int) -> None:
    url, headers = f"http://127.0.0.1:{door}/{NAME}/predict", {"Authorization": f"Bearer {served.keys['acme']}"}
    took = []
    with httpx.Client(headers=headers, timeout=10) as http:
        for _ in range(50):
            started = time.perf_counter()
            assert http.post(url, json={"instances": [ROW]}).status_code == 200
            took.append(time.perf_counter() - started)
    assert statistics.median(took) < 0.5, took


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        ("", "/predict", 401), ("rs_wrong", "/predict", 401), ("gone", "/predict", 401), ("umbrella", "/feedback", 403),
        ("umbrella", "/events/orders", 403), ("", f"/v2/models/{NAME}/infer", 401), ("umbrella", "/predict", 200),
        ("sender", "/predict", 403), ("sender", f"/v2/models/{NAME}/infer", 403),
    ],
)  # fmt: skip
def test_each_door_asks_for_the_key(served: SimpleNamespace, door: int, key: str, path: str, status: int) -> None:
    given = served.keys.get(key, key)
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    reply = httpx.post(f"http://127.0.0.1:{door}/{NAME}{path}", json={"instances": [ROW]}, headers=headers)
    assert reply.status_code == status
    assert status == 200 or reply.headers["content-type"] == "application/problem+json"
    for path in ("/drift", "/v2", f"/v2/models/{NAME}"):
        assert httpx.get(f"http://127.0.0.1:{door}/{NAME}{path}").status_code == 401


def test_a_key_of_another_tenant_sees_nothing_of_this_one(served: SimpleNamespace, door: int) -> None:
    url, event = f"http://127.0.0.1:{door}/{NAME}", {"user": "u1", "amount": 1, "account": "umbrella"}
    headers = {"Authorization": f"Bearer {served.keys['acme']}"}
    refused = httpx.post(f"{url}/events/orders", json={"events": [event]}, headers=headers)
    assert (refused.status_code, "umbrella" in refused.text) == (403, False)


def test_a_revoked_key_is_refused_everywhere_within_about_a_second(served: SimpleNamespace) -> None:
    key = access.create(served.settings, "leaver", ["predict"])
    headers = {"Authorization": f"Bearer {key}"}

    def status() -> int:
        return httpx.post(f"{served.url}/predict", json={"instances": [ROW]}, headers=headers).status_code

    assert status() == 200
    access.revoke(served.settings, key)
    deadline = time.monotonic() + 5
    while status() == 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status() == 401


@pytest.mark.parametrize("lie", LIES)
def test_a_request_that_lies_about_itself_is_refused_once(served: SimpleNamespace, door: int, lie: str) -> None:
    lines, body, length = LIES[lie]
    answer = said(door, request(served, *lines, body=body, length=length))
    assert len(statuses(answer)) == 1, answer
    assert statuses(answer)[0] in (400, 401, 413, 422), answer
    assert (door == served.doors["proxy"] and answer in BUILT_IN.values()) or problem_of(answer)


@pytest.mark.parametrize("lines", [["X-A: b\r\n c: d"], ["Content-Length: 73, 73"]])
def test_what_the_proxy_mends_a_replica_does_not_see_broken(served: SimpleNamespace, lines: list[str]) -> None:
    """Obsolete folding and equal lengths in a list: answered once, or refused."""
    for port in served.doors.values():
        answer = said(port, request(served, *lines, length="Content-Length" not in lines[0]))
        assert statuses(answer) in ([200], [400]), answer


@pytest.mark.parametrize(
    "path",
    [
        f"/{NAME}/../{OTHER}/predict", f"/{NAME}/%2e%2e/{NAME}/predict", f"//{NAME}/predict", f"/{NAME}//predict",
        f"/{NAME}/predict/", f"/{NAME}\\predict", f"/{NAME}/predict;a=b", f"/{NAME}/predict%00", f"/{NAME}x/predict",
        f"/{NAME.upper()}/predict", f"/{OTHER}/predict", f"/{NAME}/events/../predict", "*",
        f"/{NAME}/v2/models/{OTHER}/infer",
    ],
)  # fmt: skip
def test_a_path_that_is_not_a_route_leads_nowhere(served: SimpleNamespace, door: int, path: str) -> None:
    raw = request(served).replace(f"/{NAME}/predict".encode(), path.encode(), 1)
    answer = said(door, raw)
    assert problem_of(answer)["status"] in (404, 400)
    assert path.encode() not in answer, "no path is repeated"


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_over_the_limit_is_refused_at_each_door(served: SimpleNamespace, door: int, packed: bool) -> None:
    headers = {"Authorization": f"Bearer {served.keys['acme']}"} | ({"Content-Encoding": "gzip"} if packed else {})
    body = gzip.compress(b"0" * 10_000_000) if packed else b"x" * 100_001
    reply = httpx.post(f"http://127.0.0.1:{door}/{NAME}/predict", content=body, headers=headers)
    assert (reply.status_code, reply.json()["type"].rpartition("/")[2]) == (413, "payload-too-large")
    unnamed = httpx.post(f"http://127.0.0.1:{door}/{NAME}/predict", content=body, headers={"Authorization": "Bearer x"})
    assert unnamed.status_code == 401


def test_tritonclient_as_published_is_answered(served: SimpleNamespace) -> None:
    """Its defaults: binary tensors both ways; float32 and NaN, 64-bit integers, booleans and text."""
    client = triton.InferenceServerClient(f"{served.host}/{NAME}")
    headers = {"Authorization": f"Bearer {served.keys['acme']}"}
    assert client.is_server_live()
    assert client.is_server_ready()
    assert [client.is_model_ready(NAME), client.is_model_ready(NAME, "1"), client.is_model_ready(NAME, "2")] == [
        True, True, False]  # fmt: skip
    assert client.get_server_metadata(headers=headers)["extensions"] == ["binary_tensor_data"]
    described = client.get_model_metadata(NAME, "1", headers=headers)
    assert [i["name"] for i in described["inputs"]] == list(KINDS)
    rows = {"amount": np.array([[3.5], [20], [np.nan]], np.float32), "visits": np.array([2, 3, 2**40], np.int64),
            "vip": np.array([True, False, True]), "plan": np.array(["pro", "free", ""], object)}  # fmt: skip
    kinds = {"amount": "FP32", "visits": "INT64", "vip": "BOOL", "plan": "BYTES"}
    json_rows = [{**ROW}, {"amount": 20, "visits": 3, "vip": False, "plan": "free"}, {"visits": 2**40, "vip": True}]
    expected = httpx.post(f"{served.url}/predict", json={"instances": json_rows}, headers=headers).json()["decisions"]

    def ask(version: str = "", **how: object) -> triton.InferResult:
        inputs = []
        for name, values in rows.items():
            inputs.append(triton.InferInput(name, list(values.shape), kinds[name]))
            inputs[-1].set_data_from_numpy(values)
        return client.infer(NAME, inputs, version, **{"headers": dict(headers), **how})  # it adds to them

    for answer in (ask(), ask("1", request_compression_algorithm="gzip"), ask(request_compression_algorithm="deflate")):
        assert answer.as_numpy("score").tolist() == [d["score"] for d in expected]
        assert [text.decode() for text in answer.as_numpy("label")] == [d["label"] for d in expected]
        assert answer.as_numpy("model_version").tolist() == [1, 1, 1]
        assert answer.get_response()["model_version"] == "1"
    asked = [triton.InferRequestedOutput("score", binary_data=False), triton.InferRequestedOutput("label")]
    assert ask(outputs=asked, request_id="q1").get_response()["id"] == "q1"
    for wrong, status in ((lambda: ask("2"), "404"), (lambda: ask(headers={}), "401")):
        with pytest.raises(InferenceServerException) as told:
            wrong()
        assert status in str(told.value.status())
        assert told.value.message()


def test_schemathesis_finds_no_5xx_and_no_undocumented_answer(served: SimpleNamespace) -> None:
    """``RAYSAAS_FUZZ_CALLS=10000`` (``make fuzz``) is the whole run; the suite makes a few hundred calls."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    headers = {"Authorization": f"Bearer {served.keys['acme']}"}
    operations = [found.ok() for found in schema.get_all_operations()]
    acting = [operation for operation in operations if operation.method.upper() == "POST"]
    made: Counter[tuple[str, int]] = Counter()
    while made.total() < CALLS:
        share = max(1, (CALLS - made.total()) // (2 * len(acting) + len(operations)))
        for operation in (*operations, *acting):
            for mode in GenerationMode if operation in acting else [GenerationMode.POSITIVE]:
                call_often(operation, mode, headers, share, made)
    assert {label for label, _ in made} == {operation.label for operation in operations}
    assert sum(num for (label, status), num in made.items() if label.startswith("POST") and status < 300)
    assert made["POST /predict", 422]


def documented() -> dict[str, set[str]]:
    """Who listens where, by the table of docs/SECURITY.md."""
    text = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text()
    rows = re.findall(r"^\| `([\w:]+)` \| ([^|]+) \|", text, re.MULTILINE)
    return {who: set(where.strip().split(", ")) for who, where in rows}


def listener(name: str) -> str:
    """The row of a process: tasks and actors that Serve does not run are one, and so are programs of Python."""
    own = re.match(r"haproxy|gcs_server|raylet|ray::(ServeReplica|ProxyActor|DashboardAgent|RuntimeEnvAgent)", name)
    return own[0] if own else "python" if name.startswith(("python", "ray-dashboard")) else "ray::worker"


def test_open_ports_are_exactly_the_documented_ones(served: SimpleNamespace) -> None:
    loopback, elsewhere, ours = set(), set(), range(served.doors["proxy"], served.doors["proxy"] + 80)
    for process in cluster._processes(served.platform.head.id):
        try:
            who = listener(process.name())
            found = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            continue
        outside = 0
        for address in found:
            inside = address.ip.removeprefix("::ffff:").startswith("127.") or address.ip == "::1"
            assert inside or address.port not in ours, f"{who} of Serve is open at {address}"
            (loopback if inside else elsewhere).add(who)
            outside += not inside
        assert outside <= MOST_OUTSIDE.get(who, outside), f"{who} has a port that nobody documented: {found}"
    told = documented()
    assert {who for who, where in told.items() if "bind" in where} <= loopback
    assert elsewhere <= {who for who, where in told.items() if "all" in where}, elsewhere


def test_what_listens_elsewhere_asks_for_rays_token(served: SimpleNamespace) -> None:
    seen = 0
    for process in cluster._processes(served.platform.head.id):
        if process.name().startswith(("ray::RuntimeEnvAgent", "ray::DashboardAgent")):
            for address in (c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN):
                if address.ip in ("0.0.0.0", "::"):
                    continue  # metrics, which are told without, and gRPC
                seen += 1
                for path in ("/get_or_create_runtime_env", "/api/job_agent/jobs/"):
                    assert httpx.post(f"http://{address.ip}:{address.port}{path}", json={}).status_code == 401
    assert seen


def test_admin_socket_of_the_proxy_is_its_owners(served: SimpleNamespace) -> None:
    folder = Path(f"/tmp/raysaas-{served.platform.head.id}")
    assert folder.stat().st_mode & 0o777 == 0o700
    sockets = [path for path in folder.rglob("*") if path.is_socket() and path.name.startswith("a")]
    assert sockets
    assert not [path for path in sockets if path.stat().st_mode & 0o077]


def _make_it_log(served: SimpleNamespace) -> None:
    """A new key while the ledger is away is an error that the replica writes down."""
    with closing(sqlite3.connect(served.storage.ledger_url.removeprefix("sqlite:///"), timeout=10)) as ledger:
        ledger.execute("ALTER TABLE api_keys RENAME TO api_keys_away")
        try:
            reply = httpx.post(f"{served.url}/feedback", json={}, headers={"Authorization": f"Bearer rs_{SECRET}"})
        finally:
            ledger.execute("ALTER TABLE api_keys_away RENAME TO api_keys")
    assert reply.status_code == 503


def test_no_key_no_value_and_no_stack_is_in_any_log(served: SimpleNamespace, slow: SimpleNamespace) -> None:
    """Requests that are refused, with marked secrets in every place; then every file that anything wrote is read."""
    key = f"rs_{SECRET}" + "k" * 30
    good = {"Authorization": f"Bearer {served.keys['acme']}"}
    bodies = [  # and whether a refusal may name the field, whose name is the secret
        ({"instances": [ROW | {"plan": SECRET}]}, False), ({"instances": [ROW | {"amount": SECRET}]}, False),
        ({"instances": [ROW | {SECRET: 1}]}, True), ({"entities": [SECRET]}, False), ({"instances": SECRET}, False),
        ({SECRET: 1}, True), ({"outcomes": [{"decision_id": SECRET, "label": SECRET}]}, False),
        ({"events": [{"account": SECRET, "user": SECRET}]}, False), ({"events": [{SECRET: 1}]}, True),
        ({"inputs": [{"name": "plan", "shape": [1], "datatype": "BYTES", "data": [SECRET]}]}, False),
    ]  # fmt: skip
    raw = [(json.dumps(body).encode(), named) for body, named in bodies]
    raw += [(raw[0][0][:-1], False), (b"\xff" + SECRET.encode(), False)]
    headers = [good, {"Authorization": f"Bearer {key}"}, good | {"X-Request-Timeout-Ms": SECRET}]
    paths = ("/predict", "/feedback", "/events/orders", f"/v2/models/{NAME}/infer", f"/{SECRET}")
    for port in served.doors.values():
        with httpx.Client() as http:
            for (body, named), given, path in itertools.product(raw, headers, paths):
                reply = http.post(f"http://127.0.0.1:{port}/{NAME}{path}", content=body, headers=given)
                assert 400 <= reply.status_code < 500, (path, body, reply.text)
                assert named or SECRET not in reply.text, (path, body, reply.text)
                assert not [word for word in (key, "Traceback", ".py") if word in reply.text]
    for name, sockets in slow.sockets.items():
        if name.startswith("proxy"):
            time.sleep(max(0.0, slow.since + 16 - time.monotonic()))
            sockets[0].settimeout(5)
            told = sockets[0].recv(1000)
            assert statuses(told) == [408], f"{name}: the proxy ends what does not come"
            assert told == BUILT_IN[408] or problem_of(told)
    _make_it_log(served)
    served.deployments.remove(NAME)  # a replica writes its last log lines when it ends
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    places = (logs, Path(served.storage.home), Path(f"/tmp/raysaas-{served.platform.head.id}"))
    read = {}
    for path in (Path(folder, name) for place in places for folder, _, names in os.walk(place) for name in names):
        with suppress(FileNotFoundError):  # the proxy removes the files of its former processes meanwhile
            if path.is_file() and path.stat().st_size < 50_000_000:
                read[path] = path.read_bytes()
    assert len(read) > 10
    secrets = [SECRET.encode(), *(one.encode() for one in served.keys.values())]
    assert [path for path, held in read.items() if any(secret in held for secret in secrets)] == []
    replica = [path for path in logs.rglob(f"*{NAME}*") if path.is_file()]
    assert [path for path in replica if b"API key is not known yet" in path.read_bytes()], "but what went wrong is"
    assert not [path for path in replica if b"Traceback" in path.read_bytes()]
