"""Models of different feature services side by side, and what a decision says of the rows it was made on."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson

from raysaas.stores.generations import OnlineService, OnlineView, publish
from raysaas.stores.online import OnlineStore

NOW = datetime.now(UTC)
MONEY = OnlineView("shop__money", "shop__money@1", None, {"amount": "a", "visits": "b", "vip": "c", "plan": "d"})
FIRST = OnlineService("shop", "h1", (MONEY,))
CHANGED = OnlineService("shop", "h2", (replace(MONEY, rows="shop__money@2", features={**MONEY.features, "plan": "e"}),))


def decisions(app):
    lines = [line for path in sorted(app.predictor._decisions.folder.glob("decisions-*"))
             for line in path.read_bytes().splitlines()]  # fmt: skip
    return [orjson.loads(line) for line in lines]


def write(app, service: OnlineService, amount: float) -> None:
    store = OnlineStore(app.spec.storage.online_url)
    values = {"amount": amount, "visits": 3, "vip": True, "plan": "free"}
    store.write(service.views[0].rows, [("acme", "c1", NOW, values)])
    publish(store, service)


def ask(app, **body):
    return app.client("POST", "/predict", {"entities": ["c1"], **body})


def test_a_champion_keeps_its_rows_while_a_challenger_reads_the_new_ones(make_app, tmp_path: Path) -> None:
    app = make_app(views=("shop__money",))
    write(app, FIRST, 1.0)
    champion = {"version": 1, **app.arm, "features": "h1"}
    app.predictor.release({"sequence": 2, "champion": champion})
    assert ask(app).status == 200
    write(app, CHANGED, 2.0)
    app.predictor.tick()
    assert ask(app).status == 200
    assert [d["inputs"]["amount"] for d in decisions(app)] == [1.0, 1.0]
    kinds = {"amount": "number", "plan": "category"}
    second = {"version": 2, **app.make_bundle(tmp_path / "2", kinds=kinds, seed=1), "features": "h2"}
    app.predictor.release(
        {
            "sequence": 3,
            "champion": champion,
            "variants": [{"name": "challenger", "share": 1.0, **second}],
            "shadow": second,
        }
    )
    assert ask(app).status == 200
    assert decisions(app)[-1]["version"] == 2
    assert decisions(app)[-1]["inputs"] == {"amount": 2.0, "plan": "free"}
    app.predictor.release({"sequence": 4, "champion": second})
    assert ask(app).status == 200
    assert decisions(app)[-1]["inputs"]["amount"] == 2.0


def test_a_switch_within_what_a_model_knows_is_followed_within_a_tick(make_app) -> None:
    app = make_app(views=("shop__money",))
    write(app, FIRST, 1.0)
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm, "features": "h1"}})
    wider = replace(MONEY, rows="shop__money@3", features={**MONEY.features, "new": "f"})
    write(app, OnlineService("shop", "h3", (wider,)), 7.0)
    app.predictor.tick()
    ask(app)
    assert decisions(app)[-1]["inputs"]["amount"] == 7.0


def test_a_decision_says_which_online_rows_it_was_made_on(make_app) -> None:
    app = make_app(views=("shop__money",))
    write(app, FIRST, 1.0)
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm, "features": "h1"}})
    ask(app)
    ask(app, instances=[{"Amount (EUR)": 5}])
    app.client("POST", "/predict", {"instances": [{"amount": 1, "visits": 1, "vip": True, "plan": "pro"}]})
    first, second, third = decisions(app)
    moment = int(NOW.timestamp() * 1e6)
    assert abs(first["features_at"]["shop__money@1"] - moment) <= 1
    assert "given" not in first
    assert second["given"] == ["amount"]
    assert second["features_at"] == first["features_at"]
    assert "features_at" not in third


def test_a_row_past_its_ttl_is_no_answer(make_app) -> None:
    app = make_app(views=("shop__money",))
    expired = OnlineService("shop", "h4", (replace(MONEY, rows="shop__money@4", ttl_s=-1.0),))
    write(app, expired, 1.0)
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm, "features": "h4"}})
    reply = ask(app)
    assert (reply.status, "no features online" in reply.json["detail"]) == (422, True)


def test_a_store_that_is_away_is_a_503_and_heals(make_app, tmp_path: Path) -> None:
    import services

    with services.redis() as url:
        app = make_app(views=("shop__money",))
        object.__setattr__(app.spec.storage, "online_url", url)
        lookup = type(app.predictor._lookup)(app.spec)
        app.predictor._lookup = lookup
        write(app, FIRST, 1.0)
        app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm, "features": "h1"}})
        assert ask(app).status == 200
    reply = ask(app)
    assert (reply.status, reply.json["type"].rpartition("/")[2]) == (503, "unavailable")
    row = {"amount": 1, "visits": 1, "vip": True, "plan": "pro"}
    assert app.client("POST", "/predict", {"instances": [row]}).status == 200, "whoever brings values is still answered"
