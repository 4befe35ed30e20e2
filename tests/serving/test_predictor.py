"""Releases inside one replica: arms, switching, corruption, shadow; and what a replica must not import."""

import subprocess
import sys

import pytest

from raysaas.errors import CorruptBundle
from raysaas.models import bundle
from raysaas.serving.door import Door
from raysaas.serving.predictor import Predictor
from raysaas.serving.split import pick
from raysaas.stores.journal import tail

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}


def release(app, sequence, **arms):
    return {"sequence": sequence, "champion": {"version": 1, **app.arm}, **arms}


@pytest.fixture
def second(make_app):
    """An app, and a second version of another schema."""
    app = make_app()
    arm = app.make_bundle(app.bundles / "2", seed=7, kinds={"amount": "number", "plan": "category"})
    return app, {"version": 2, **arm}


def test_arms_are_sticky_and_each_row_gets_its_own_version(second):
    app, two = second
    app.predictor.release(release(app, 2, variants=[{"name": "challenger", "share": 0.5, **two}], experiment="x"))
    entities = [f"e{i}" for i in range(200)]
    rows = [{**ROW, "amount": float(i)} for i in range(200)]
    body = {"instances": rows, "entities": entities}
    first, again = (app.client("POST", "/predict", body).json["decisions"] for _ in range(2))
    assert [d["arm"] for d in first] == [d["arm"] for d in again]
    names = {0: "challenger", None: "champion"}
    assert [d["arm"] for d in first] == [names[pick([0.5], "shop", "acme", e, "x")] for e in entities]
    models = {"champion": bundle.load(app.arm["uri"]), "challenger": bundle.load(two["uri"])}
    for decision, row in zip(first, body["instances"], strict=True):
        model = models[decision["arm"]]
        alone = model.predict(model.encoder.rows([row], "ignore")).score[0]
        assert decision["score"] == pytest.approx(alone, rel=1e-6)
        assert decision["model_version"] == {"champion": 1, "challenger": 2}[decision["arm"]]
    assert {d["arm"] for d in first} == {"champion", "challenger"}
    records = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert {r["id"]: r["score"] for r in records} == {d["decision_id"]: d["score"] for d in first + again}


def test_an_experiment_of_three_keeps_its_arms_over_a_restart_and_a_growing_champion(second):
    app, two = second
    three = {"version": 3, **app.make_bundle(app.bundles / "3", seed=9)}
    variants = [{"name": "b", "share": 0.3, **two}, {"name": "c", "share": 0.4, **three}]
    app.predictor.release(release(app, 2, variants=variants, experiment="x"))
    entities = [f"e{i}" for i in range(300)]
    body = {"instances": [ROW] * 300, "entities": entities}
    first = app.client("POST", "/predict", body).json["decisions"]
    assert {(d["arm"], d["model_version"]) for d in first} == {("champion", 1), ("b", 2), ("c", 3)}
    assert app.predictor.health()["variants"] == {"b": 2, "c": 3}
    restarted = Predictor(app.spec)
    restarted.release(release(app, 3, variants=[variants[0], variants[1] | {"share": 0.2}], experiment="x"))
    again = type(app.client)(Door(restarted), app.client.key)("POST", "/predict", body).json["decisions"]
    moved = {(a["arm"], b["arm"]) for a, b in zip(first, again, strict=True) if a["arm"] != b["arm"]}
    assert moved == {("c", "champion")}
    assert [d["arm"] for d in first].count("c") / 2 == pytest.approx([d["arm"] for d in again].count("c"), abs=25)


def test_switch_changes_who_answers_and_back(second):
    app, two = second
    assert app.predictor.health()["sequence"] == 1
    app.predictor.release({"sequence": 2, "champion": two})
    reply = app.client("POST", "/predict", {"instances": [{"amount": 1.0}]})
    assert reply.json["decisions"][0]["model_version"] == 2
    app.predictor.release(release(app, 3))
    assert app.predictor.health() | {"pid": 0} == {
        "status": "ok", "use_case": "shop", "sequence": 3, "champion": 1, "variants": {}, "problem": None, "pid": 0,
        "backend": "onnxruntime/cpu",
    }  # fmt: skip


def test_corrupt_bundle_keeps_the_old_one_and_says_so(second):
    app, two = second
    model = app.bundles / "2" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptBundle, match="Version 2"):
        app.predictor.release({"sequence": 2, "champion": two})
    health = app.client("GET", "/health", key="").json
    assert (health["status"], health["sequence"], health["champion"]) == ("degraded", 1, 1)
    assert health["problem"].startswith("Release 2 was refused.")
    assert app.client("POST", "/predict", {"instances": [ROW]}).json["decisions"][0]["model_version"] == 1
    app.predictor.release(release(app, 3))
    assert app.predictor.health()["status"] == "ok"


def test_missing_bundle_is_a_corrupt_one(second):
    app, two = second
    with pytest.raises(CorruptBundle, match="nowhere"):
        app.predictor.release({"sequence": 2, "champion": {**two, "uri": "/nowhere"}})


def test_shadow_is_recorded_and_never_returned(second):
    app, two = second
    app.predictor.release(release(app, 2, shadow=two))
    decisions = app.client("POST", "/predict", {"instances": [ROW] * 5}).json["decisions"]
    assert {d["model_version"] for d in decisions} == {1}
    app.predictor.close()
    shadows = tail(app.spec.storage.journal, "shop", "shadows", {})[0]
    assert [s["decision_id"] for s in shadows] == [d["decision_id"] for d in decisions]
    assert {s["version"] for s in shadows} == {2}
    assert shadows[0]["score"] != decisions[0]["score"]


def test_replica_imports_no_heavy_library():
    """``ray.serve`` itself imports pandas where it is installed; nothing of ours may."""
    code = (
        "import sys, raysaas.serving.door, raysaas.serving.predictor as p\n"
        "banned = {'feast', 'mlflow', 'evidently', 'torch', 'sklearn', 'ray.data', 'ray.train'}\n"
        "heavy = (banned | {'ray', 'pandas', 'pyiceberg'}) & set(sys.modules)\n"
        "import raysaas.serving.app\n"
        "heavy |= banned & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
