"""Entries of Serve's declarative configuration, and the environment of its fast path."""

import json
from datetime import UTC, datetime

from ray.serve.schema import ServeApplicationSchema

from raysaas.records import Arm, Release, Variant
from raysaas.serving.config import app_config, configs, release_config, wanted, with_release
from raysaas.serving.environment import serve_environment
from raysaas.serving.spec import AppSpec

ONE, TWO = (Arm(version=n, uri=f"/b/{n}", digest=f"d{n}") for n in (1, 2))
RELEASE = Release(
    use_case="saas_churn", sequence=3, champion=ONE, variants=(Variant(name="b", arm=TWO, share=0.1),), shadow=ONE,
    tenants={"acme": TWO}, frozen=True, experiment="3", actor="me", reason="r",
    at=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def test_entry_is_valid_json_that_serve_and_the_replica_understand(make_settings):
    settings = make_settings("use_case=saas_churn")
    entry = json.loads(json.dumps(app_config(settings, RELEASE, "raysaas.lifecycle:application")))
    ServeApplicationSchema.model_validate(entry)
    spec = AppSpec.from_dict(entry["args"])
    assert (spec.use_case, spec.task, spec.storage) == ("saas_churn", settings.use_case.task, settings.storage)
    assert spec.views
    assert entry["route_prefix"] == "/saas_churn"
    assert wanted(entry) == release_config(RELEASE)


def test_entry_names_the_sources_that_take_events_as_serve_gives_them_back(make_settings):
    settings = make_settings("use_case=saas_churn", "+use_case.sources.usage.events=true")
    args = app_config(settings, RELEASE, "raysaas.lifecycle:application")["args"]
    assert args["events"].keys() == {"usage"}
    assert json.loads(json.dumps(args)) == args, "or each deploy would replace the replicas"


def test_release_holds_what_answers_and_nothing_else():
    one, two = ({"version": n, "uri": f"/b/{n}", "digest": f"d{n}", "features": ""} for n in (1, 2))
    assert release_config(RELEASE) == {
        "sequence": 3, "champion": one, "variants": [{"name": "b", "share": 0.1, **two}], "shadow": one,
        "tenants": {"acme": two}, "experiment": "3",
    }  # fmt: skip


def test_new_release_changes_only_its_own_place():
    other = {"name": "Other", "num_replicas": 2}
    app = {"name": "a", "args": {"x": 1}, "deployments": [other, {"name": "Endpoint", "num_replicas": 3}]}
    changed = with_release(app, {"sequence": 2})
    assert wanted(app) is None
    assert wanted(changed) == {"sequence": 2}
    assert changed["deployments"] == [other, {"name": "Endpoint", "num_replicas": 3, "user_config": {"sequence": 2}}]
    assert app["deployments"][1] == {"name": "Endpoint", "num_replicas": 3}
    assert wanted(with_release({"name": "b"}, {"sequence": 1})) == {"sequence": 1}


def test_applications_made_by_hand_are_left_out():
    details = {"applications": {"a": {"deployed_app_config": {"name": "a"}}, "b": {"deployed_app_config": None}}}
    assert configs(details) == {"a": {"name": "a"}}


def test_socket_paths_fit_into_what_haproxy_takes():
    node_id = "f" * 56
    for folder in (None, "/tmp/raysaas-0123456789abcdef"):
        values = serve_environment(folder)
        sockets = [v for k, v in values.items() if k.endswith("SOCKET_PATH")]
        assert len(sockets) == 2
        for path in sockets:
            parent, _, name = path.rpartition("/")
            assert len(f"{parent}/{node_id}/{name}") <= 97
