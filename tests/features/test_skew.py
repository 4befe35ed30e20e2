"""A thousand decisions by entity agree with the offline side, and one value that was tampered with is found."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from tests.contracts.online import dated
from tests.features.test_arrival import online, orders, plain, windows
from tests.features.worlds import NOW, world

from raysaas.features.arrival import refresh
from raysaas.features.build import materialize
from raysaas.features.online import online_store
from raysaas.features.skew import skew
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas.serving.predictor import Predictor
from raysaas.serving.protocol import parse_predict
from raysaas.serving.spec import AppSpec
from raysaas.settings import Serve, Settings
from raysaas.stores import generations, journal
from raysaas.stores.online import online_views
from raysaas.stores.tables import Tables
from raysaas.use_case import UseCase


def model(out: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A small real network over online rows; its arm of a release."""
    kinds = {name: "category" if isinstance(value, str) else "number" for name, value in rows[0].items()}
    data = {
        name: np.array([row[name] for row in rows], object if kind == "category" else float)
        for name, kind in kinds.items()
    }
    encoder = Encoder.fit(data, kinds)
    digest = bundle.save(
        out, encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.network,
        profile=Profile.fit(data, kinds, np.linspace(0, 1, len(rows))), network=build(encoder.width, 1, [4], 0.0),
    )  # fmt: skip
    return {"version": 1, "uri": str(out), "digest": digest}


def serve(settings: Settings, out: Path) -> Predictor:
    store, case = online_store(settings), settings.use_case
    rows = [values for values, _ in online(settings).values()]
    spec = AppSpec(use_case=case.name, task=Task.binary, storage=settings.storage, serve=Serve(),
                   views=tuple(online_views(case)))  # fmt: skip
    predictor = Predictor(spec)
    features = generations.current(store, case.name)
    predictor.release({"sequence": 1, "champion": {**model(out, rows), "features": features}})
    return predictor


def decide(predictor: Predictor, tenant: str, entities: list[str], **given: Any) -> None:
    body = {"entities": entities} | ({"instances": [given] * len(entities)} if given else {})
    asyncio.run(predictor.decide(tenant, parse_predict(orjson.dumps(body), 5000)))


def shipped(settings: Settings, tables: Tables, predictor: Predictor) -> None:
    for each in predictor._journals:
        each.rotate()
    journal.ship(str(settings.storage.journal), settings.use_case.name, "decisions", tables)


@pytest.mark.parametrize("case", [windows(), plain()], ids=["windows", "plain"])
def test_a_thousand_decisions_agree_with_the_offline_side(case: UseCase, tmp_path: Path) -> None:
    sources = {"orders": orders(600, 0, 90)} | ({"plans": orders(900, 0, 60)} if len(case.sources) == 2 else {})
    settings, tables = world(tmp_path, case, **sources)
    assert skew(settings, tables).num_decisions == 0
    materialize(settings, tables, NOW)
    predictor = serve(settings, tmp_path / "model")
    keys = sorted(online(settings))
    for tenant in ("t0", "t1"):
        mine = [entity for of, entity in keys if of == tenant]
        decide(predictor, tenant, (mine * 20)[:300])
    more = orders(25, 90, 100, first=600)
    tables.append(f"raw.{case.name}__orders", more)
    refresh(settings, tables, more.select(["tenant", "entity"]))
    for tenant in ("t0", "t1"):
        mine = [entity for of, entity in keys if of == tenant]
        decide(predictor, tenant, (mine * 20)[:200])
    first = next(iter(predictor.answering.champion.bundle.encoder.fields)).name
    decide(predictor, *(part if n == 0 else [part] for n, part in enumerate(keys[0])), **{first: 1e9})
    shipped(settings, tables, predictor)
    report = skew(settings, tables, 1_001)
    assert (report.num_decisions, report.num_redefined, report.rate) == (1_001, 0, 0.0)
    assert {name: found.num_compared for name, found in report.features.items()} == {
        name: 1_000 if name == first else 1_001 for name in next(iter(online(settings).values()))[0]
    }


def test_a_value_that_was_tampered_with_is_found(tmp_path: Path) -> None:
    settings, tables = world(tmp_path, windows(), orders=orders(600, 0, 90), plans=orders(900, 0, 60))
    materialize(settings, tables, NOW)
    predictor = serve(settings, tmp_path / "model")
    store, key = online_store(settings), sorted(online(settings))[0]
    (found,) = dated(store, "cuts__o", [key])
    assert found is not None
    decide(predictor, key[0], [key[1]])
    store.write("cuts__o", [(*key, found[0], {**found[1], "count_40d": 999})])
    decide(predictor, key[0], [key[1]])
    shipped(settings, tables, predictor)
    report = skew(settings, tables)
    different = {name: found for name, found in report.features.items() if found.num_different}
    assert different.keys() == {"count_40d"}
    found = different["count_40d"]
    assert (found.num_compared, found.rate, len(found.examples)) == (2, 0.5, 1)
    newest = tables.read("log.decisions", columns=["id", "inputs"]).sort_by([("id", "descending")]).to_pylist()[0]
    assert found.examples == [newest["id"]]
    settings.use_case.views["o"].windows_days = [40]
    assert skew(settings, tables).num_redefined == 2


def test_decisions_of_before_there_was_an_origin_are_passed_over(tmp_path: Path) -> None:
    settings, tables = world(tmp_path, windows(), orders=orders(60, 0, 90), plans=orders(10, 0, 60))
    old = {"id": ["d"], "use_case": ["cuts"], "tenant": ["t0"], "entity": ["e1"], "inputs": ["{}"]}
    tables.append("log.decisions", pa.table(old))
    assert skew(settings, tables).num_decisions == 0
