"""Replicas come and go with demand, from none to as many as are allowed; nobody is turned away meanwhile."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import pytest
from tests.serving.conftest import ROW, make_bundle

from raysaas.errors import CorruptBundle, Unavailable
from raysaas.records import Arm, Release, Task
from raysaas.serving.deployment import Deployments, release_config
from raysaas.serving.scaling import autoscaling
from raysaas.serving.spec import DEPLOYMENT, AppSpec
from raysaas.settings import Serve
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import new_key

NEVER = 1_000_000
WAIT, ONGOING = "scaling_wait", "scaling_ongoing"  # each with one reason alone to have more replicas
REASONS = {
    WAIT: {"min_replicas": 0, "target_ongoing_requests": NEVER, "target_wait_ms": 0.001},
    ONGOING: {"min_replicas": 1, "target_ongoing_requests": 2, "target_wait_ms": NEVER},
}
SOON = {"upscale_delay_s": 0.5, "look_back_period_s": 2.0}


def until(done, timeout_s):
    ends = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.fixture
def apps(platform, tmp_path) -> Iterator[SimpleNamespace]:
    """Two applications, each of which has one reason to scale; both go down again after idle seconds."""
    storage, port = platform.settings.storage, int(platform.head.url.rpartition(":")[2])
    deployments = Deployments(
        platform.head.dashboard_url, home=storage.home, cluster=platform.settings.cluster, serve=Serve(port=port)
    )
    first, second, own = (Arm(version=n, **make_bundle(tmp_path / str(n), seed=n)) for n in (1, 2, 3))
    key, digest = new_key()
    Ledger(storage.ledger_url).add_key(digest, "acme", ["predict"])
    releases = {}
    for name, reason in REASONS.items():
        serve = Serve(port=port, max_replicas=2, scale_down_s=3.0, quota_rps=1e6, quota_burst=1e6, **reason)
        release = Release(use_case=name, sequence=1, champion=first, actor="t", reason="t", at=datetime.now(UTC))
        releases[name] = release if name == WAIT else replace(release, tenants={"acme": own})
        deployment = {"name": DEPLOYMENT, "user_config": release_config(releases[name])}
        deployments.apply({
            "name": name, "route_prefix": f"/{name}", "import_path": "raysaas.serving.app:application",
            "args": AppSpec(use_case=name, task=Task.binary, storage=storage, serve=serve).to_dict(),
            "deployments": [deployment | {"autoscaling_config": autoscaling(serve) | SOON}],
        })  # fmt: skip

    def states(name):
        replicas = deployments.details()["applications"][name]["deployments"][DEPLOYMENT]["replicas"]
        return [replica["state"] for replica in replicas]

    def running(name):
        return states(name).count("RUNNING")

    def ask(name):
        return http.post(f"/{name}/predict", json={"instances": [ROW]})

    with httpx.Client(base_url=platform.head.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        yield SimpleNamespace(
            deployments=deployments, release=releases[WAIT], second=second, states=states, running=running, ask=ask
        )
    for name in REASONS:
        with suppress(Unavailable):  # the one does not wait for the other's last requests
            deployments.remove(name, timeout_s=0.0)
    until(lambda: not REASONS.keys() & deployments.status().keys(), 60)


@contextmanager
def slow_disk(folder) -> Iterator[None]:
    """The disk is slow for real: the model is a pipe, whose bytes come at the end."""
    model = folder / "model.onnx"
    data = model.read_bytes()
    model.unlink()
    os.mkfifo(model)
    try:
        yield
    finally:
        pipe = os.open(model, os.O_RDWR)  # unlike a writer, does not wait for a reader that was killed
        whole = folder.with_name("whole.onnx")
        whole.write_bytes(data)
        whole.replace(model)  # for whoever opens it next
        os.write(pipe, data)
        os.close(pipe)


def test_more_come_by_requests_under_way_or_by_waits_alone_and_none_stay_for_nobody(apps, tmp_path):
    ask, running = apps.ask, apps.running

    def broken(sequence):
        arm = replace(apps.second, digest="0" * 64)
        return release_config(replace(apps.release, sequence=sequence, champion=arm))

    with ThreadPoolExecutor(4) as pool:
        with slow_disk(tmp_path / "3"):
            held = [pool.submit(ask, ONGOING) for _ in range(4)]  # they wait, and nothing works
            until(lambda: running(ONGOING) == 2, 60)
            assert not any(reply.done() for reply in held)
        replies = [reply.result() for reply in held]
    assert [(reply.status_code, reply.json()["decisions"][0]["arm"]) for reply in replies] == [(200, "tenant")] * 4

    until(lambda: running(WAIT) == 0, 40)
    with pytest.raises(CorruptBundle):
        apps.deployments.switch(WAIT, broken(2))
    until(lambda: running(WAIT) == 0, 40)
    seen, stop = [], threading.Event()

    def one_by_one():  # next to nothing is under way, and replicas have little to do
        found = set()
        while not stop.is_set():
            found.add(ask(WAIT).status_code)
        return found

    def two():
        seen.append(running(WAIT))
        return seen[-1] == 2

    with ThreadPoolExecutor(5) as pool:
        first = [pool.submit(ask, WAIT) for _ in range(4)]  # at none
        statuses = pool.submit(one_by_one)
        try:
            assert {reply.result().json()["decisions"][0]["model_version"] for reply in first} == {1}
            until(lambda: apps.states(WAIT).count("STARTING") == 1, 60)
            with pytest.raises(CorruptBundle):  # whoever refuses it: the one that runs, or the one that comes
                apps.deployments.switch(WAIT, broken(3))
            until(two, 60)
            apps.deployments.switch(WAIT, release_config(replace(apps.release, sequence=4, champion=apps.second)))
            assert running(WAIT) == 2, "a release leaves the replicas as they are"
        finally:
            stop.set()
        assert statuses.result() == {200}
    assert min(seen) >= 1, "there is always somebody to answer while somebody asks"
    assert ask(WAIT).json()["decisions"][0]["model_version"] == 2
    until(lambda: running(ONGOING) == 1, 30)  # one that nobody needs goes
