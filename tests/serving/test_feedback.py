"""Outcomes over HTTP: by decision id or the caller's own key, in any order, corrected and repeated."""

from datetime import UTC, datetime

import pytest

from raysaas.records import Task
from raysaas.stores.journal import Journal, tail
from raysaas.stores.matured import matured

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
ID = "0199c82cc5c8" + "0123456789abcdef0123"


def predict(app, **body):
    reply = app.client("POST", "/predict", {"instances": [ROW] * 2} | body)
    return [d["decision_id"] for d in reply.json["decisions"]] if reply.status == 200 else reply


def tell(app, **outcome):
    return app.client("POST", "/feedback", {"outcomes": [outcome]})


def outcomes(app):
    return {row["id"]: row["outcome"] for row in matured(app.spec.storage, "shop").rows.to_pylist()}


def test_a_key_is_kept_with_the_decision_and_leads_to_it(make_app):
    app = make_app()
    one, two = predict(app, keys=["order-17", None])
    records = tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert [record.get("key") for record in records] == ["order-17", None]
    assert tell(app, key="order-17", label=True).status == 200
    assert outcomes(app) == {one: "Yes", two: None}


def test_outcomes_come_late_early_twice_corrected_and_out_of_order(make_app):
    app = make_app()
    assert tell(app, key="early", label="No").status == 200, "before the decision"
    (early,) = predict(app, instances=[ROW], keys=["early"])
    (fixed,) = predict(app, instances=[ROW], keys=["fixed"])
    now = datetime.fromtimestamp(app.clock.now, UTC)
    for label, hour in (("Yes", 3), ("No", 1), ("Yes", 3), ("Yes", 2)):
        tell(app, decision_id=fixed, label=label, observed_at=now.replace(hour=hour).isoformat())
    assert outcomes(app) == {early: "No", fixed: "Yes"}
    app.clock.now += 60
    tell(app, key="fixed", label="No", observed_at=now.replace(hour=3).isoformat())  # of the same moment, known later
    assert outcomes(app) == {early: "No", fixed: "No"}
    tell(app, decision_id=fixed, label="Yes", observed_at="2999-01-01T00:00:00Z")  # a wrong clock
    app.clock.now += 60
    tell(app, decision_id=fixed, label="No")
    assert outcomes(app)[fixed] == "No", "nothing was observed after it was known"


@pytest.mark.parametrize("labels", [("Yes", "No"), ("No", "Yes")])
def test_of_one_request_the_last_outcome_counts(make_app, labels):
    app = make_app()
    (one,) = predict(app, instances=[ROW])
    told = [{"decision_id": one, "label": label} for label in labels]
    assert app.client("POST", "/feedback", {"outcomes": told}).status == 200
    assert outcomes(app) == {one: labels[-1]}


def test_a_key_of_another_tenant_leads_nowhere(make_app):
    app = make_app()
    (mine,) = predict(app, instances=[ROW], keys=["order-1"])
    stranger = {"tenant": "umbrella", "use_case": "shop", "label": "Yes", "observed_at": "2025-10-09T00:00:00+00:00"}
    journal = Journal(app.spec.storage.journal, "shop", "outcomes")
    journal.append([stranger | {"decision_id": None, "key": "order-1"}, stranger | {"decision_id": mine}])
    assert outcomes(app) == {mine: None}


@pytest.mark.parametrize(
    ("keys", "named"),
    [("order", "'keys' must be a list"), (["a"], "'keys' has 1 items and the request 2 rows"),
     ([], "'keys' has 0 items"), (["a", 5], "keys[1] must be a string"), (["a", ""], "keys[1] has 0 characters"),
     (["a" * 201, None], "keys[0] has 201 characters")],
)  # fmt: skip
def test_bad_keys_are_refused_by_place_and_leave_nothing(make_app, keys, named):
    app = make_app()
    reply = predict(app, keys=keys)
    assert (reply.status, named in reply.json["detail"]) == (422, True), reply.json
    assert tail(app.spec.storage.journal, "shop", "decisions", {})[0] == []


@pytest.mark.parametrize(
    ("outcome", "named"),
    [({"label": True}, "either decision_id or key"), ({"label": True, "key": "a", "decision_id": ID}, "either"),
     ({"label": True, "key": 5}, "outcomes[0].key must be a string"), ({"label": True, "key": ""}, "0 characters")],
)  # fmt: skip
def test_an_outcome_names_its_decision_in_one_way(make_app, outcome, named):
    reply = tell(make_app(), **outcome)
    assert (reply.status, named in reply.json["detail"]) == (422, True), reply.json


@pytest.mark.parametrize("label", ["nan", "inf", "-Infinity", "1e999", "NaN", "10" * 400, "x"])
def test_a_regression_takes_finite_numbers_only(make_app, label):
    reply = tell(make_app(Task.regression), decision_id=ID, label=label)
    assert (reply.status, "number" in reply.json["detail"]) == (422, True)
