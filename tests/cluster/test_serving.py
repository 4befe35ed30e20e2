"""Serving for real: Ray Serve behind HAProxy, HTTP, real bundles, processes killed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import httpx
import numpy as np
import psutil
import pytest

from raysaas import cluster
from raysaas.client import Client
from raysaas.errors import ConfigError, CorruptBundle, NotFound, Unavailable
from raysaas.ingest.pipeline import ingest
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Arm, Family, Release, Task
from raysaas.serving.deployment import Deployments, release_config
from raysaas.serving.spec import DEPLOYMENT, AppSpec, EventSource
from raysaas.settings import Serve, Settings
from raysaas.stores.journal import await_closed, ship, tail
from raysaas.stores.ledger import Ledger
from raysaas.stores.quotas import QuotaBook
from raysaas.stores.tables import Tables
from raysaas.tenancy.keys import new_key
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

NAME = "serving_test"
ROW = {"amount": 3.5, "plan": "pro"}
ORDERS = Source(
    events=True, tenant="account", entity="user",
    columns={"account": Column(type=ColumnType.text), "user": Column(type=ColumnType.text), "amount": Column(min=0)},
)  # fmt: skip
IMPORT = "raysaas.serving.app:application"


def save(out, seed):
    rng = np.random.default_rng(0)
    data = {"amount": rng.normal(10, 3, 100), "plan": rng.choice(["free", "pro"], 100).astype(object)}
    kinds = {"amount": "number", "plan": "category"}
    encoder = Encoder.fit(data, kinds)
    digest = bundle.save(
        out, encoder=encoder, task=Task.binary, labels=["No", "Yes"], family=Family.network,
        profile=Profile.fit(data, kinds, rng.random(100)), network=build(encoder.width, 1, [8], 0.0, seed=seed),
    )  # fmt: skip
    return str(out), digest


@pytest.fixture(scope="module")
def served(platform, tmp_path_factory):
    """A deployed use case with versions 1 to 3, keys of two tenants, and a way to release."""
    root = tmp_path_factory.mktemp("serving")
    arms = {n: Arm(version=n, uri=uri, digest=digest) for n in (1, 2, 3) for uri, digest in [save(root / f"b{n}", n)]}
    storage = replace(platform.settings.storage)
    ledger, keys = Ledger(storage.ledger_url), {}
    expired = datetime.now(UTC) - timedelta(seconds=1)
    for tenant, scopes, end in (("acme", ["predict", "feedback", "events"], None), ("umbrella", ["predict"], None),
                                ("gone", ["predict"], expired)):  # fmt: skip
        keys[tenant], digest = new_key()
        ledger.add_key(digest, tenant, scopes, end)
    port = int(platform.head.url.rpartition(":")[2])
    serve = Serve(port=port, min_replicas=2, max_replicas=2, max_body_bytes=100_000, quota_rps=1e6, quota_burst=1e6,
                  segment_bytes=50_000)  # fmt: skip
    events = {"orders": EventSource.of(ORDERS)}
    spec = AppSpec(use_case=NAME, task=Task.binary, storage=storage, serve=serve, events=events)
    deployments = Deployments(
        platform.head.dashboard_url, home=storage.home, cluster=platform.settings.cluster, serve=serve
    )

    def config(number, sequence):
        release = Release(use_case=NAME, sequence=sequence, champion=arms[number], actor="t", reason="t", at=expired)
        return release_config(release)

    app = {"name": NAME, "route_prefix": f"/{NAME}", "import_path": IMPORT, "args": spec.to_dict(),
           "deployments": [{"name": DEPLOYMENT, "user_config": config(1, 1)}]}  # fmt: skip
    deployments.apply(app, timeout_s=60)
    sequence = iter(range(2, 1000))
    yield SimpleNamespace(
        url=f"{platform.head.url}/{NAME}", keys=keys, deployments=deployments, storage=storage, arms=arms, app=app,
        release=lambda number: deployments.switch(NAME, config(number, next(sequence))), config=config,
    )  # fmt: skip
    deployments.remove(NAME)
    assert NAME not in deployments.status()


@pytest.fixture
def client(served):
    with httpx.Client(
        base_url=served.url, headers={"Authorization": f"Bearer {served.keys['acme']}"}, timeout=30
    ) as http:
        yield http


def journal_ids(served):
    records, offsets = [], {}
    while True:
        more, offsets = tail(served.storage.journal, NAME, "decisions", offsets)
        if not more:
            return [r["id"] for r in records]
        records += more


def test_predicts_and_journals(served, client):
    reply = client.post("/predict", json={"instances": [ROW, {"amount": 1}]})
    assert reply.status_code == 200
    decisions = reply.json()["decisions"]
    assert [d["model_version"] for d in decisions] == [1, 1]
    assert {d["decision_id"] for d in decisions} <= set(journal_ids(served))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": {"Authorization": ""}}, 401), ({"headers": {"Authorization": "Bearer rs_no"}}, 401),
        ({"key": "gone"}, 401), ({"key": "umbrella", "path": "/feedback"}, 403), ({"content": b"{"}, 400),
        ({"json": {"instances": [{"nope": 1}]}}, 422), ({"json": {"instances": [{"amount": "x"}]}}, 422),
        ({"content": b"x" * 100_001}, 413), ({"path": "/predict/x"}, 404), ({"method": "PUT"}, 405),
    ],
)  # fmt: skip
def test_every_refusal_is_a_problem_document(served, client, change, status):
    request = {"json": {"instances": [ROW]}} if not {"content", "json"} & change.keys() else {}
    request |= {k: v for k, v in change.items() if k in ("headers", "content", "json")}
    if "key" in change:
        request["headers"] = {"Authorization": f"Bearer {served.keys[change['key']]}"}
    reply = client.request(change.get("method", "POST"), change.get("path", "/predict"), **request)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["type"].startswith("https://raysaas.dev/problems/")


def test_predictions_are_answered_in_front_of_serve_and_all_else_behind_it(client):
    # Serve's own ids of requests are UUIDs with hyphens.
    assert "-" in client.get("/health").headers["x-request-id"]
    answered, refused = (client.post("/predict", json={"instances": [row]}) for row in (ROW, {"nope": 1}))
    assert (answered.status_code, refused.status_code) == (200, 422)
    assert answered.headers["x-request-id"] == answered.json()["decisions"][0]["decision_id"]
    assert "-" not in refused.headers["x-request-id"]


def doors_of(served, platform):
    """The HTTP ports of the replicas themselves."""
    replicas = [psutil.Process(h["pid"]) for h in served.deployments.health(NAME)]
    listening = {c.laddr.port for p in replicas for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    flags = cluster.environment(platform.settings, platform.head)
    first, last = (int(flags[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    return sorted(listening & set(range(first, last + 1)))


def test_a_replica_reached_directly_asks_for_the_key_too(served, client, platform):
    doors = doors_of(served, platform)
    assert len(doors) == 2
    for port in doors:
        url = f"http://127.0.0.1:{port}/{NAME}/predict"
        assert httpx.post(url, json={"instances": [ROW]}).status_code == 401
        assert httpx.post(url, json={"instances": [ROW]}, headers=client.headers).status_code == 200


def test_a_client_that_stalls_hides_no_replica_from_a_release(served, client):
    """The proxy gives each request to the replica with the fewest in flight: one of both is always busier now."""
    url = httpx.URL(served.url)
    head = f"POST {url.path}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n"
    with socket.create_connection((url.host, url.port)) as stalled:
        stalled.sendall(f"{head}Authorization: {client.headers['authorization']}\r\n\r\n{'[' * 20_000}".encode())
        time.sleep(0.2)
        assert len(served.deployments.health(NAME)) == 2


def test_limits_hold_over_replicas_wherever_the_requests_go(served, platform):
    """Both tenants ask for far more than 100 a second: one of both replicas, the other of one of them alone."""
    direct = f"http://127.0.0.1:{doors_of(served, platform)[0]}/{NAME}"
    ledger, urls, rps, seconds = Ledger(served.storage.ledger_url), {"spread": served.url, "lone": direct}, 100.0, 6.0
    keys = {}
    for tenant in urls:
        QuotaBook(ledger, NAME).set_limit(tenant, rps)
        keys[tenant], digest = new_key()
        ledger.add_key(digest, tenant, ["predict"])
    time.sleep(2.5)
    statuses, waits, ends = {tenant: [] for tenant in urls}, [], time.monotonic() + seconds

    def load(tenant):
        with httpx.Client(headers={"Authorization": f"Bearer {keys[tenant]}"}, timeout=30) as http:
            while time.monotonic() < ends:
                reply = http.post(f"{urls[tenant]}/predict", json={"instances": [ROW]})
                statuses[tenant].append(reply.status_code)
                waits.append(int(reply.headers.get("retry-after", 1)))

    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(load, tenant) for tenant in ("spread", "spread", "lone", "lone")]:
            job.result()
    for tenant, seen in statuses.items():
        assert set(seen) == {200, 429}
        assert seen.count(200) == pytest.approx(rps + rps * seconds, rel=0.1), tenant
        QuotaBook(ledger, NAME).set_limit(tenant, None)
    assert set(waits) <= {1, 2, 3}


def test_documentation_works_behind_the_prefix(served, client):
    page = httpx.get(f"{served.url}/docs")
    assert (page.status_code, "openapi.json" in page.text) == (200, True)
    document = httpx.get(f"{served.url}/openapi.json").json()
    call = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert client.post("/predict", json=call["examples"]["instances"]["value"]).status_code == 200
    for bare in (served.url, f"{served.url}/"):
        arrived = httpx.get(bare, follow_redirects=True)
        assert ([r.status_code for r in arrived.history], arrived.text) == ([307], page.text)


def test_switch_under_load_keeps_the_replicas_and_fails_nobody(served, client):
    before = {h["pid"] for h in served.deployments.health(NAME)}
    statuses, versions, stop = [], [], threading.Event()

    def load():
        with httpx.Client(headers=client.headers, timeout=30) as http:
            while not stop.is_set():
                reply = http.post(f"{served.url}/predict", json={"instances": [ROW]})
                statuses.append(reply.status_code)
                versions.append(reply.json()["decisions"][0]["model_version"] if reply.status_code == 200 else None)

    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(load) for _ in range(4)]
        time.sleep(0.5)
        took = []
        for number in (2, 3, 1):
            started = time.perf_counter()
            served.release(number)
            took.append(time.perf_counter() - started)
            reply = client.post("/predict", json={"instances": [ROW]})
            assert reply.json()["decisions"][0]["model_version"] == number
        stop.set()
        for job in jobs:
            job.result()
    assert set(statuses) == {200}
    assert set(versions) == {1, 2, 3}
    assert {h["pid"] for h in served.deployments.health(NAME)} == before
    assert max(took) < 5, took


def test_corrupt_bundle_is_named_and_the_old_one_serves_on(served, client, tmp_path):
    uri, digest = save(tmp_path / "bad", 9)
    model = tmp_path / "bad" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    config = served.config(1, 900) | {"champion": {"version": 9, "uri": uri, "digest": digest}}
    with pytest.raises(CorruptBundle, match=r"model\.onnx"):
        served.deployments.switch(NAME, config)
    reply = client.post("/predict", json={"instances": [ROW]})
    assert reply.json()["decisions"][0]["model_version"] == 1
    deployed = served.deployments.details()["applications"][NAME]["deployed_app_config"]
    assert deployed["deployments"][0]["user_config"]["champion"]["version"] == 1
    first = served.app | {"name": "corrupt", "route_prefix": "/corrupt"}
    first["deployments"] = [{"name": DEPLOYMENT, "user_config": config, "max_constructor_retry_count": 1}]
    with pytest.raises(CorruptBundle, match=r"^[^\n]*model\.onnx[^\n]*$"):  # said by a replica that never ran
        served.deployments.apply(first, timeout_s=60)
    served.deployments.remove("corrupt")


def test_unknown_application_and_broken_one_are_clear(served):
    with pytest.raises(NotFound, match=NAME):
        served.deployments.switch("nobody", {})
    broken = served.app | {"name": "broken", "route_prefix": "/broken", "import_path": "raysaas.nothing:there"}
    with pytest.raises(Unavailable, match="nothing"):
        served.deployments.apply(broken, timeout_s=60)
    served.deployments.remove("broken")
    assert set(served.deployments.status()) >= {NAME}


SHIPPER = """
import sys
from raysaas.settings import Storage
from raysaas.stores.journal import ship
from raysaas.stores.tables import Tables
tables = Tables(Storage(home=sys.argv[1]))
while True:
    for kind in ("outcomes", "decisions"):
        ship(tables.storage.journal, sys.argv[2], kind, tables)
    print("shipped", flush=True)
"""


def start_shipper(served):
    command = [sys.executable, "-c", SHIPPER, served.storage.home, NAME]
    shipper = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert shipper.stdout.readline() == "shipped\n"
    return shipper


def controller(platform):
    """Serve's controller of this head: a renamed process, whose environment cannot be read."""
    named = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "raylet"]
    raylet = next(p for p in named if p.environ().get("RAYSAAS_CLUSTER") == platform.head.id)
    return next(p for p in raylet.children(recursive=True) if "::ServeController" in "".join(p.cmdline()))


def test_kill_9_of_replica_shipper_and_controller_loses_no_answer(served, client, platform, tmp_path):
    """The load generators keep the ledger: an id is written down, with fsync, when its answer came."""
    failed, stop = [], threading.Event()

    def load(ledger):
        with httpx.Client(headers=client.headers, timeout=30) as http, ledger.open("w") as file:
            while not stop.is_set():
                try:
                    reply = http.post(f"{served.url}/predict", json={"instances": [ROW] * 3})
                except httpx.HTTPError as error:
                    failed.append(error)
                    continue
                if reply.status_code == 200:
                    file.writelines(f"{d['decision_id']}\n" for d in reply.json()["decisions"])
                    file.flush()
                    os.fsync(file.fileno())
                else:
                    failed.append(reply.status_code)

    shipper = start_shipper(served)
    ledgers = [tmp_path / str(i) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(load, ledger) for ledger in ledgers]
        time.sleep(0.7)
        os.kill(served.deployments.health(NAME)[0]["pid"], signal.SIGKILL)
        for wait_s in (0.7, 0.9):
            time.sleep(wait_s)
            shipper.kill()
            shipper.wait()
            shipper = start_shipper(served)
        controller(platform).kill()
        time.sleep(1.5)
        stop.set()
        for job in jobs:
            job.result()
    shipper.kill()
    shipper.wait()
    answered = [line for ledger in ledgers for line in ledger.read_text().split()]
    assert len(answered) > 100
    assert len(answered) == len(set(answered))
    kept = journal_ids(served)
    assert len(kept) == len(set(kept))
    assert set(answered) <= set(kept)
    tables = Tables(served.storage)
    assert await_closed(served.storage.journal, NAME, "decisions", 15)  # the living close theirs by age
    ship(served.storage.journal, NAME, "decisions", tables)
    shipped = [r for r in tables.read("log.decisions", columns=["id", "use_case"]).to_pylist() if r["use_case"] == NAME]
    assert len(shipped) == len({r["id"] for r in shipped})
    assert set(answered) <= {r["id"] for r in shipped}
    deadline = time.monotonic() + 30
    while len(served.deployments.health(NAME)) < 2:  # the next test finds both replicas
        assert time.monotonic() < deadline


@pytest.mark.usefixtures("ray_cluster")
def test_events_reach_their_table_within_seconds_and_bad_ones_hold_nobody_up(served):
    """Two replicas journal them; a row is known from its receipt on, under the tenant of its key."""
    use_case = UseCase(name=NAME, sources={"orders": ORDERS}, examples=Examples(source="orders", label="amount"))
    settings, tables = Settings(use_case=use_case, storage=served.storage), Tables(served.storage)
    before = datetime.now(UTC)
    with Client(served.url.removesuffix(f"/{NAME}"), served.keys["acme"]) as client:
        for i in range(20):
            accepted = client.events(NAME, "orders", [{"user": f"u{i}", "amount": 1}, {"user": "bad", "amount": -1}])
            assert accepted == {"accepted": 2}
        with pytest.raises(NotFound, match="those that do are orders"):
            client.events(NAME, "visits", [{"user": "u"}])
    after = datetime.now(UTC)
    deadline = time.monotonic() + 30
    while not tables.exists(f"raw.{NAME}__orders") or tables.count(f"raw.{NAME}__orders") < 20:
        assert time.monotonic() < deadline
        ingest(settings, "orders", tables, datetime.now(UTC))
    rows = tables.read(f"raw.{NAME}__orders").to_pylist()
    assert sorted(row["user"] for row in rows) == sorted(f"u{i}" for i in range(20))
    assert {(row["tenant"], row["account"]) for row in rows} == {("acme", "acme")}
    assert all(before <= row["known_at"] == row["event_time"] <= after for row in rows)
    assert tables.count(f"quarantine.{NAME}__orders") == 20


def test_a_gpu_that_the_machine_does_not_have_is_refused_at_once_and_nothing_changes(served, client):
    nodes = served.deployments._request("GET", path="/api/v0/nodes").json()["data"]["result"]["result"]
    if any(node["resources_total"].get("GPU") for node in nodes):
        pytest.skip("this machine has a GPU")
    before, started = served.deployments.details(), time.monotonic()
    args = {**served.app["args"], "serve": {**served.app["args"]["serve"], "num_gpus": 0.5}}
    with pytest.raises(ConfigError, match=r"serve\.num_gpus=0\.5 .* Ray counts 0 GPUs on this machine"):
        served.deployments.apply({**served.app, "args": args})
    assert time.monotonic() - started < 5
    assert (
        served.deployments.details()["applications"][NAME]["last_deployed_time_s"]
        == (before["applications"][NAME]["last_deployed_time_s"])
    )
    assert client.post("/predict", json={"instances": [ROW]}).status_code == 200
