"""A replica with a GPU: what it asks Ray for, what it loads and lets go, what it records; without one, no torch."""

import asyncio
import logging
import subprocess
import sys
import weakref
from datetime import UTC, datetime

import pytest
import torch

from raysaas.errors import ConfigError
from raysaas.lineage.decision import _again
from raysaas.models import bundle
from raysaas.records import Arm, Family, ModelVersion, Release
from raysaas.serving.app import build
from raysaas.serving.config import app_config
from raysaas.serving.own_versions import OwnVersions
from raysaas.serving.protocol import PredictRequest
from raysaas.stores.journal import tail
from raysaas.stores.logs import as_table

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


@pytest.mark.parametrize("num_gpus", [0, 0.25, 1])
def test_a_replica_asks_ray_for_its_part_of_a_gpu(make_settings, num_gpus):
    arm = Arm(version=1, uri="/b/1", digest="d")
    release = Release(use_case="saas_churn", sequence=1, champion=arm, actor="t", reason="t", at=datetime.now(UTC))
    settings = make_settings("use_case=saas_churn", f"serve.num_gpus={num_gpus}")
    args = app_config(settings, release, "raysaas.serving.app:application")["args"]
    assert build(args)._bound_deployment.ray_actor_options["num_gpus"] == num_gpus


@pytest.mark.parametrize("num_gpus", [-0.1, 2])
def test_more_than_one_gpu_is_a_mistake(make_settings, num_gpus):
    with pytest.raises(ConfigError, match=r"serve\.num_gpus"):
        make_settings(f"serve.num_gpus={num_gpus}")


def test_a_replica_without_a_gpu_answers_without_torch(make_app):
    app = make_app()
    code = f"""
import sys
from raysaas.serving.versions import Versions
model = Versions(0.0).prepare({{"sequence": 1, "champion": {{"version": 1, **{app.arm!r}}}}}).champion.bundle
print(model.backend, len(model.predict(model.encoder.rows([{ROW!r}])).score), "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["onnxruntime/cpu", "1", "False"], done.stderr


@no_gpu
def test_a_replica_that_was_to_have_a_gpu_and_has_none_answers_and_says_so(make_app, caplog):
    with caplog.at_level(logging.WARNING):
        app = make_app(serve={"num_gpus": 0.5})
    health = app.client("GET", "/health", key="").json
    assert (health["status"], health["backend"]) == ("degraded", "onnxruntime/cpu")
    assert health["problem"].startswith("serve.num_gpus is 0.5, but torch ")
    assert health["problem"] in caplog.text
    assert app.client("POST", "/predict", {"instances": [ROW]}).status == 200


@pytest.fixture
def there(make_app):
    """A replica whose device is torch's CPU: all of the way but CUDA itself."""
    app = make_app()
    app.predictor._versions.device = "cpu"
    app.predictor.own = OwnVersions(2, "cpu")
    arms = {n: {"version": n, **app.make_bundle(app.bundles / str(n), seed=n)} for n in range(2, 9)}
    tenants = {f"t{n}": arms[n] for n in range(5, 9)}
    release = {"sequence": 2, "champion": arms[2], "shadow": arms[4], "tenants": tenants, "experiment": "e"}
    app.predictor.release(release | {"variants": [{"name": "b", "share": 0.5, **arms[3]}]})
    app.arms = arms
    return app


async def ask(app, tenant, num=20):
    rows = [{**ROW, "amount": float(i)} for i in range(num)]
    return await app.predictor.decide(tenant, PredictRequest(instances=rows, entities=[None] * num, by_entity=False))


def test_every_version_of_a_release_runs_there_and_its_decisions_say_so(there):
    asyncio.run(ask(there, "acme"))
    asyncio.run(ask(there, "t5"))
    there.predictor.close()
    records = tail(there.spec.storage.journal, "shop", "decisions", {})[0]
    assert {(one["arm"], one["backend"]) for one in records} == {
        ("champion", "torch/cpu"), ("b", "torch/cpu"), ("tenant", "torch/cpu"),
    }  # fmt: skip
    assert as_table(records, "decisions")["backend"].to_pylist() == ["torch/cpu"] * 40
    assert there.predictor.health()["backend"] == "torch/cpu"
    answering = there.predictor.answering
    assert {one.bundle.backend for one in answering.versions()} == {"torch/cpu"}
    assert len(tail(there.spec.storage.journal, "shop", "shadows", {})[0]) == 40


def test_decisions_of_the_cpu_are_recorded_as_ever(make_app):
    app = make_app()
    assert app.client("POST", "/predict", {"instances": [ROW]}).status == 200
    app.predictor.close()
    (record,) = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert "backend" not in record


def test_an_evicted_version_of_a_tenant_leaves_no_tensor(there):
    def tensors(tenant):
        own = there.predictor.own.version(there.predictor.answering, tenant)
        return [weakref.ref(tensor) for tensor in own.bundle._scorer._network.parameters()]

    asyncio.run(ask(there, "t5"))
    first = tensors("t5")
    assert all(ref() is not None for ref in first)
    for tenant in ("t6", "t7"):
        asyncio.run(ask(there, tenant))
    assert there.predictor.own.counts()["evicted"] == 1
    assert [ref() for ref in first] == [None] * len(first)


def test_versions_that_are_released_no_more_leave_no_tensor(there):
    first = [weakref.ref(tensor) for tensor in there.predictor.answering.champion.bundle._scorer._network.parameters()]
    for sequence, number in enumerate((3, 4, 5, 6, 7, 8), start=3):
        there.predictor.release({"sequence": sequence, "champion": there.arms[number]})
    assert [ref() for ref in first] == [None] * len(first)


def version_of(arm):
    return ModelVersion(
        use_case="shop", version=arm["version"], uri=arm["uri"], digest=arm["digest"], family=Family.network,
        metrics={}, baseline={}, training_snapshot=1,
    )  # fmt: skip


def test_why_computes_it_again_on_the_cpu_and_explains_rounding_and_no_more(there):
    asyncio.run(ask(there, "umbrella", 1))
    there.predictor.close()
    record = tail(there.spec.storage.journal, "shop", "decisions", {})[0][0]
    version = version_of(there.arms[record["version"]])
    exact = float(bundle.load(version.uri).predict(bundle.load(version.uri).encoder.rows([record["inputs"]])).score[0])

    def again(**changed):
        return _again(version, {**record, "score": exact, **changed})

    assert again()["same_score"]
    assert "rounding" not in again()
    near, far = again(score=exact + 2e-6), again(score=exact + 2e-3)
    assert (near["same_score"], near["rounding"]["explains"], far["rounding"]["explains"]) == (False, True, False)
    assert not again(label="No" if record["label"] == "Yes" else "Yes")["rounding"]["explains"]
    assert "rounding" not in again(score=exact + 2e-6, backend=None), "the CPU's bits are the same for ever"
