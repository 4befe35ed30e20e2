"""Why a decision was made: everything that a replica recorded, and the same bits computed again."""

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from tests.serving.conftest import make_bundle
from tests.test_lineage import case, ingested, learnt

from raysaas import overview, performance
from raysaas.cli import main
from raysaas.errors import InputError, NotFound
from raysaas.lineage.decision_text import page
from raysaas.records import Arm, Family, Release, Task, Variant, plain
from raysaas.serving.config import release_config
from raysaas.serving.predictor import Predictor
from raysaas.serving.spec import AppSpec
from raysaas.settings import Serve, Settings, Storage
from raysaas.stores.journal import ship
from raysaas.stores.ledger import Ledger
from raysaas.stores.matured import matured
from raysaas.stores.registry import Registry
from raysaas.stores.tables import Tables
from raysaas.tenancy.keys import Access

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
ACME = Access(tenant="acme", scopes=frozenset({"predict", "feedback"}))
ODD = [{"amount": 0.1 * i, "visits": i % 9, "vip": None if i % 3 else True, "plan": ["free", "pro", "new"][i % 3]}
       for i in range(300)]  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Versions 2 (champion), 3 (challenger) and 4 (shadow), decisions of each, outcomes with a correction."""
    folder = tmp_path_factory.mktemp("why")
    settings = Settings(use_case=case(), storage=Storage(home=str(folder / "var")))
    tables, ledger = Tables(settings.storage), Ledger(str(settings.storage.ledger_url))
    snapshot = ingested(tables, "a")
    arms = {}
    (folder / "b1").mkdir()
    training = learnt(settings, {"raw.shop__orders": snapshot}, ["a", "b"], folder / "b1", Family.network)
    tags = {"training": json.dumps(plain(training)), "training_snapshot": str(training.snapshot_id)}
    for number in (2, 3, 4):
        digest = make_bundle(folder / f"b{number}", Task.binary, seed=number)["digest"]
        stored = Registry(settings.storage).register(
            "shop", folder / f"b{number}", digest=digest, family=Family.network, metrics={}, baseline={}, tags=tags
        )
        arms[number] = Arm(version=stored.version, uri=stored.uri, digest=digest)
    spec = AppSpec(use_case="shop", task=Task.binary, storage=settings.storage, serve=Serve())
    predictor = Predictor(spec)
    base = {"use_case": "shop", "champion": arms[2], "actor": "ada", "at": datetime.now(UTC)}
    first = Release(sequence=1, reason="the first", **base)
    canary = Release(
        sequence=2, reason="a canary", variants=(Variant(name="challenger", arm=arms[3], share=0.5),), shadow=arms[4],
        experiment="x", **base,
    )  # fmt: skip
    app = SimpleNamespace(settings=settings, tables=tables, arms=arms, ledger=ledger, folder=folder)
    for release in (first, canary):
        ledger.set_release(release)
        predictor.release(release_config(release))
    app.ids = asked(predictor, {"instances": ODD[:256], "keys": [f"order-{i}" for i in range(256)]})
    app.alone = [asked(predictor, {"instances": [row]})[0] for row in ODD[256:]]
    told(predictor, [{"decision_id": app.ids[0], "label": "Yes"}])
    told(predictor, [{"key": "order-0", "label": "No"}])
    told(predictor, [{"decision_id": one, "label": i % 2 == 0} for i, one in enumerate(app.ids[1:200])])
    predictor.close()
    for kind in ("outcomes", "shadows", "decisions"):
        ship(str(settings.storage.journal), "shop", kind, tables)
    return app


def asked(predictor: Predictor, body: dict) -> list[str]:
    answer = asyncio.run(predictor.predict(ACME, orjson.dumps(body)))
    return [d["decision_id"] for d in orjson.loads(answer)["decisions"]]


def told(predictor: Predictor, outcomes: list[dict]) -> None:
    asyncio.run(predictor.feedback(ACME, orjson.dumps({"outcomes": outcomes})))


def test_every_decision_of_a_batch_is_the_same_bits_computed_alone(shop: SimpleNamespace) -> None:
    found = [overview.why(shop.settings, one) for one in (*shop.ids[:24:3], *shop.alone[:2])]
    assert all(one["same_score"] for one in found)
    assert {one["decision"]["arm"] for one in found} == {"champion", "challenger"}
    assert [one["score_again"] for one in found] == [one["decision"]["score"] for one in found]


def test_it_tells_inputs_outcomes_shadow_training_set_and_the_releases_of_the_version(shop: SimpleNamespace) -> None:
    told = overview.why(shop.settings, shop.ids[0])
    assert (told["decision"]["key"], told["decision"]["tenant"]) == ("order-0", "acme")
    assert told["decision"]["inputs"] == {"amount": 0.0, "visits": 0.0, "vip": 1.0, "plan": "free"}
    assert [(one["label"], one["key"]) for one in told["outcomes"]] == [("Yes", None), ("No", "order-0")]
    assert told["outcome"] == told["outcomes"][-1]
    assert [one["version"] for one in told["shadows"]] == [4]
    assert told["training_set"]["num_rows"] == 2
    assert told["files"] == ["/in/a.csv"]
    roles = {2: [["champion"], ["champion"]], 3: [["challenger at 50%"]]}[told["decision"]["version"]]
    assert [one["roles"] for one in told["releases"]] == roles
    assert told["release"]["sequence"] == 2


def test_the_page_reads_from_the_answer_to_the_reasons(shop: SimpleNamespace) -> None:
    text = page(overview.why(shop.settings, shop.ids[0]))
    for line in (rf"^Decision {shop.ids[0]} of shop$", r"for tenant acme, key order-0, at 20",
                 r"the same, bit for bit$", r"^  plan    free$",
                 r"^  No, observed .* reported by key order-0  <- this one counts$",
                 r"^  version 4: (No|Yes) \(score 0\.\d+\)$", r"made of  raw\.shop__orders@\d+", r"file     /in/a\.csv",
                 r"release 2, .*; by ada  <- in force then$"):  # fmt: skip
        assert re.search(line, text, re.MULTILINE), (line, text)


def test_the_page_says_what_was_read_online_and_what_the_request_gave(shop: SimpleNamespace) -> None:
    told = overview.why(shop.settings, shop.ids[0])
    moment = int(datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp() * 1e6)
    online = {**told["decision"], "entity": "e7", "features_at": {"shop__row": moment}, "given": ["plan"]}
    text = page({**told, "decision": online})
    assert "for tenant acme, entity e7, key order-0" in text
    assert re.search(r"^  plan +free  given by the request$", text, re.MULTILINE)
    assert "    shop__row: 2026-01-31 12:00:00.000 UTC\n" in text


def test_a_bundle_that_was_changed_is_said_and_the_rest_is_told(shop: SimpleNamespace) -> None:
    told = overview.why(shop.settings, shop.ids[0])
    model = Path(shop.arms[told["decision"]["version"]].uri) / "model.onnx"
    data = model.read_bytes()
    try:
        model.write_bytes(data[:-1] + b"x")
        told = overview.why(shop.settings, shop.ids[0])
    finally:
        model.write_bytes(data)
    assert (told["score_again"], told["same_score"]) == (None, False)
    assert "does not match its digest" in told["not_again"]
    assert "cannot be computed again" in page(told)


def test_a_record_that_was_changed_does_not_pass(shop: SimpleNamespace) -> None:
    told = overview.why(shop.settings, shop.ids[0])
    forged = {**told, "same_score": False, "score_again": 0.125, "label_again": "No"}
    assert "COMPUTED AGAIN IT DIFFERS: No (score 0.125)" in page(forged)


def test_a_score_of_a_gpu_is_told_with_how_far_the_cpu_is_from_it(shop: SimpleNamespace) -> None:
    told = overview.why(shop.settings, shop.ids[0])
    apart = {"apart": 3e-8, "allowed": 5e-5, "explains": True}
    far = {**told, "decision": {**told["decision"], "backend": "torch/cuda"}, "same_score": False, "rounding": apart}
    text = page(far)
    assert re.search(
        r"answered by torch/cuda; computed again on the CPU: .* 3.0e-08 apart, rounding may be 5.0e-05", text
    )
    assert "COMPUTED AGAIN IT DIFFERS" in page({**far, "rounding": {**apart, "explains": False}})


@pytest.mark.parametrize("typo", ["abc", "0" * 32, "x' or 1 == 1"])
def test_a_typo_of_an_id_is_one_sentence(shop: SimpleNamespace, typo: str) -> None:
    with pytest.raises(NotFound, match="There is no decision"):
        overview.why(shop.settings, typo)
    done = CliRunner().invoke(main, ["why", typo, f"home={shop.settings.storage.home}"])
    assert done.exit_code == 65


def test_performance_counts_what_is_mature_and_says_what_it_read(
    shop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = performance.performance(shop.settings, ["arm"], rows_to=str(tmp_path / "rows.parquet"))
    assert (whole["total"]["num_decisions"], whole["total"]["num_known"]) == (300, 200)
    assert {group["group"]["arm"] for group in whole["groups"]} == {"champion", "challenger"}
    assert sum(group["num_known"] for group in whole["groups"]) == 200
    assert whole["source"]["snapshots"]["log.decisions"] == shop.tables.current("log.decisions")
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows["id"].to_pylist() == matured(shop.settings.storage, "shop").rows["id"].to_pylist()
    young = performance.performance(shop.settings, delay=timedelta(days=1))
    assert (young["total"]["num_mature"], young["total"]["num_early"], young["total"]["metrics"]) == (0, 200, {})
    text = performance.screen(whole)
    assert "300 decisions; 300 are mature (at least 0 days old); the outcome of 200 of those is known (67%)." in text
    assert re.search(r"^challenger +\d+ +\d+ +\d+ +\d+% +0\.\d+", text, re.MULTILINE)
    assert "200 outcomes of younger decisions are known" in performance.screen(young)
    by_plan = performance.performance(shop.settings, ["plan"])
    assert {group["group"]["plan"] for group in by_plan["groups"]} == {"free", "pro", "new"}
    with pytest.raises(InputError, match="choose from"):
        performance.performance(shop.settings, ["nope"])
    assert performance.performance(shop.settings, tenant="umbrella")["total"]["num_decisions"] == 0
