"""The shadow's queue: bounded, complete, and never in anybody's way."""

import asyncio

import pytest
from tests.serving.conftest import ROW, make_bundle

from raysaas.records import Arm
from raysaas.serving.protocol import PredictRequest
from raysaas.serving.shadow import Shadow
from raysaas.serving.versions import Version, load
from raysaas.stores.journal import Journal, tail


def version(folder, number):
    return Version(number, load(Arm(version=number, **make_bundle(folder / str(number), seed=number))))


def rows(first, num, **values):
    known = {"use_case": "shop", "tenant": "acme", "time": "2026-01-01T00:00:00+00:00"}
    return [{**known, "id": f"{first + i}", "inputs": {**ROW, **values}} for i in range(num)]


@pytest.fixture
def shadow(tmp_path):
    journal = Journal(str(tmp_path / "journal"), "shop", "shadows")
    shadow = Shadow(journal)
    yield shadow
    shadow.close()
    journal.close()


def recorded(tmp_path):
    return tail(tmp_path / "journal", "shop", "shadows", {})[0]


def test_every_row_is_scored_once_by_its_own_version_or_counted(shadow, tmp_path):
    one, two = version(tmp_path, 1), version(tmp_path, 2)
    for i in range(240):
        shadow.score(one if i % 3 else two, rows(20 * i, 20))
    shadow.close()
    found = recorded(tmp_path)
    assert len(found) + shadow.num_skipped == 4800
    assert len({r["decision_id"] for r in found}) == len(found) >= 4000
    assert all(r["version"] == (1 if int(r["decision_id"]) // 20 % 3 else 2) for r in found)


def test_more_rows_than_there_is_room_for_are_skipped_and_counted(shadow, tmp_path):
    shadow.score(version(tmp_path, 1), rows(0, 5000))
    assert shadow.num_skipped == 5000
    shadow.close()
    assert recorded(tmp_path) == []


def test_rows_that_it_cannot_take_are_counted_and_the_next_are_scored(shadow, tmp_path):
    one, two = version(tmp_path, 1), version(tmp_path, 2)
    shadow.score(one, rows(0, 3, amount="many"))
    shadow.score(two, rows(10, 2))
    shadow.close()
    assert ([r["decision_id"] for r in recorded(tmp_path)], shadow.num_skipped) == (["10", "11"], 3)


def test_requests_answered_while_it_is_busy_are_all_shadowed(make_app):
    app = make_app()
    two = {"version": 2, **app.make_bundle(app.bundles / "2", seed=2)}
    app.predictor.release({"sequence": 2, "champion": {"version": 1, **app.arm}, "shadow": two})
    request = PredictRequest(instances=[ROW] * 3, entities=[None] * 3, by_entity=False)

    async def many():
        return [d["decision_id"] for _ in range(200) for d in await app.predictor.decide("acme", request)]

    ids = asyncio.run(many())
    app.predictor.close()
    assert [r["decision_id"] for r in tail(app.spec.storage.journal, "shop", "shadows", {})[0]] == ids
