"""Replicas come and go with demand, from none on; nobody is turned away meanwhile."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import httpx
import orjson
import pytest
from tests.serving.conftest import ROW, make_bundle

from raysaas.errors import CorruptBundle
from raysaas.records import Arm, Release, Task
from raysaas.serving.deployment import Deployments, release_config
from raysaas.serving.spec import DEPLOYMENT, AppSpec
from raysaas.settings import Serve
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import new_key

NAME = "scaling_test"


def until(done, timeout_s):
    ends = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.fixture
def sleepy(platform, tmp_path):
    """An application that goes to sleep after two idle seconds; its release, and a second version."""
    storage, port = platform.settings.storage, int(platform.head.url.rpartition(":")[2])
    serve = Serve(
        port=port, min_replicas=0, max_replicas=2, target_ongoing_requests=2, scale_down_s=2.0, target_wait_ms=0.5,
        quota_rps=1e6, quota_burst=1e6,
    )  # fmt: skip
    deployments = Deployments(
        platform.head.dashboard_url, home=storage.home, cluster=platform.settings.cluster, serve=serve
    )
    first, second = (Arm(version=n, **make_bundle(tmp_path / str(n), seed=n)) for n in (1, 2))
    release = Release(use_case=NAME, sequence=1, champion=first, actor="t", reason="t", at=datetime.now(UTC))
    spec = AppSpec(use_case=NAME, task=Task.binary, storage=storage, serve=serve)
    deployments.apply(
        {"name": NAME, "route_prefix": f"/{NAME}", "import_path": "raysaas.serving.app:application",
         "args": spec.to_dict(), "deployments": [{"name": DEPLOYMENT, "user_config": release_config(release)}]}
    )  # fmt: skip
    yield SimpleNamespace(deployments=deployments, release=release, second=second, ledger=Ledger(storage.ledger_url))
    deployments.remove(NAME)


def test_at_none_requests_are_answered_and_broken_releases_refused_and_work_keeps_replicas_up(platform, sleepy):
    deployments, release, second = sleepy.deployments, sleepy.release, sleepy.second
    key, digest = new_key()
    sleepy.ledger.add_key(digest, "acme", ["predict"])
    http = httpx.Client(base_url=f"{platform.head.url}/{NAME}", headers={"Authorization": f"Bearer {key}"}, timeout=60)

    def running():
        replicas = deployments.details()["applications"][NAME]["deployments"][DEPLOYMENT]["replicas"]
        return sum(replica["state"] == "RUNNING" for replica in replicas)

    bodies = {num: orjson.dumps({"instances": [ROW] * num}) for num in (1, 1000)}

    def ask(num=1):
        return http.post("/predict", content=bodies[num], headers={"Content-Type": "application/json"})

    until(lambda: running() == 0, 40)
    broken = replace(release, sequence=2, champion=replace(second, digest="0" * 64))
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask) for _ in range(4)]
        with pytest.raises(CorruptBundle):
            deployments.switch(NAME, release_config(broken))
        replies = [reply.result() for reply in asked]
    assert [reply.status_code for reply in replies] == [200] * 4
    assert ask().json()["decisions"][0]["model_version"] == 1

    stop, seen = threading.Event(), []

    def load(_):
        statuses = set()
        while not stop.is_set():
            statuses.add(ask(1000).status_code)
        return statuses

    ends = time.monotonic() + 12  # an idle replica would be gone after seven
    with ThreadPoolExecutor(4) as pool:
        statuses = pool.map(load, range(4))
        try:
            while time.monotonic() < ends:
                seen.append(running())
                time.sleep(0.5)
        finally:
            stop.set()
        assert set().union(*statuses) == {200}
    assert min(seen) >= 1, "there is always somebody to answer while somebody asks"
    deployments.switch(NAME, release_config(replace(release, sequence=3, champion=second)))
    assert running() >= 1, "a release leaves the replicas as they are"
    assert ask().json()["decisions"][0]["model_version"] == 2
