"""A canary on real Serve that its own actor ends, while that actor is killed with -9."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import lightgbm
import numpy as np
import pytest

from raysaas import access, releases
from raysaas.errors import CorruptBundle
from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas.release import steps
from raysaas.serving.deployment import Deployments
from raysaas.settings import ReleasePolicy, Strategy
from raysaas.stores.ledger import Ledger
from raysaas.stores.registry import Registry

NAME = "released"


def until(ask: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (answer := ask()) and time.monotonic() < end:
        time.sleep(0.1)
    return answer


def save(out: Path, learnt: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> str:
    """A small model of what ``learnt`` says of amounts."""
    rng = np.random.default_rng(0)
    data = {"amount": rng.normal(size=400)}
    encoder = Encoder.fit(data, {"amount": "number"})
    label = learnt(data["amount"], rng).astype(int)
    trees = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 4},
                           lightgbm.Dataset(encoder.matrix(data), label), 10)  # fmt: skip
    profile = Profile.fit(data, {"amount": "number"}, rng.random(400))
    return bundle.save(out, encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.trees,
                       profile=profile, trees=trees.model_to_string())  # fmt: skip


@pytest.fixture(scope="module")
def shop(platform: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A deployed use case whose version 1 is good and whose version 2 has learnt nothing; 4 was never loaded."""
    root = tmp_path_factory.mktemp("bundles")
    policy = ReleasePolicy(strategy=Strategy.canary, stages=[0.5, 1.0], poll_s=0.2, max_score_psi=99.0)
    known = platform.settings
    settings = replace(known, use_case=replace(known.use_case, name=NAME), release=policy,
                       serve=replace(known.serve, max_replicas=1))  # fmt: skip
    registry = Registry(settings.storage)
    good = lambda x, _: x > 0  # noqa: E731
    for number, learnt in enumerate((good, lambda x, rng: rng.random(len(x)) > 0.5, good, lambda x, _: x > 1)):
        digest = save(root / str(number), learnt)
        made = registry.register(NAME, root / str(number), digest=digest, family=Family.trees, metrics={}, baseline={},
                                 tags={})  # fmt: skip
        registry.judge(NAME, made.version, released=number == 0, reason="a test")
    head = platform.head
    url = f"{head.url}/{NAME}"
    releases.introduce(settings, registry.version(NAME, 1), actor="deploy")
    headers = {"Authorization": f"Bearer {access.create(settings, 'acme', ['predict', 'feedback'], None)}"}
    client = httpx.Client(base_url=url, headers=headers, timeout=30)
    yield SimpleNamespace(settings=settings, ledger=Ledger(settings.storage.ledger_url), registry=registry,
                          client=client, rng=np.random.default_rng(1), num=0)  # fmt: skip
    deployments = Deployments(head.dashboard_url, home=settings.storage.home, cluster=known.cluster,
                              serve=settings.serve)  # fmt: skip
    deployments.remove(NAME)


def ask(shop: SimpleNamespace, num: int) -> set[str]:
    """Decisions for entities never seen before, and what happened: "yes" for amounts over 0."""
    amounts = shop.rng.normal(size=num)
    shop.num += num
    body = {"instances": [{"amount": float(x)} for x in amounts], "entities": [f"e{shop.num}-{i}" for i in range(num)]}
    decisions = shop.client.post("/predict", json=body).raise_for_status().json()["decisions"]
    outcomes = [{"decision_id": d["decision_id"], "label": "yes" if x > 0 else "no"}
                for d, x in zip(decisions, amounts, strict=True)]  # fmt: skip
    shop.client.post("/feedback", json={"outcomes": outcomes}).raise_for_status()
    return {decision["arm"] for decision in decisions}


def answering(shop: SimpleNamespace) -> tuple[int, int]:
    health = shop.client.get("/health").json()
    return health["champion"], health["sequence"]


def actor_pid(shop: SimpleNamespace) -> int:
    return int((shop.ledger.get_state(f"release-lease/{NAME}") or {"owner": "0-"})["owner"].split("-")[0])


def test_a_worse_canary_is_rolled_back_by_the_actor_that_was_killed(shop: SimpleNamespace) -> None:
    shop.registry.judge(NAME, 2, released=True, reason="better on held-back rows")
    canary = releases.introduce(shop.settings, shop.registry.version(NAME, 2), actor="retrain")
    assert (canary.champion.version, canary.variants[0].share) == (1, 0.5), "release.strategy says canary"
    assert shop.registry.champion(NAME).version == 1, "who answers, whatever the gate crowned"
    assert ask(shop, 100) == {"champion", "challenger"}
    pid = until(lambda: actor_pid(shop))
    os.kill(pid, signal.SIGKILL)
    for _ in range(8):
        ask(shop, 100)
    assert until(lambda: actor_pid(shop) != pid), "Serve starts another actor"
    back = until(lambda: (found := shop.ledger.release(NAME)).sequence > canary.sequence and found)
    assert back, shop.ledger.get_state(f"release/{NAME}")
    assert (back.champion.version, back.variants, back.actor) == (1, (), "release")
    assert "worse by" in back.reason
    assert until(lambda: answering(shop) == (1, back.sequence))


def test_a_release_whose_author_died_reaches_every_replica(shop: SimpleNamespace) -> None:
    current = shop.ledger.release(NAME)
    by = steps.By(actor="ana", reason="then killed", at=datetime.now(UTC) - timedelta(minutes=1))
    recorded = steps.promote(current, NAME, releases.arm_of(shop.registry.version(NAME, 3)), by)
    shop.ledger.set_release(recorded)
    assert until(lambda: answering(shop) == (3, recorded.sequence)), "the actor brings it to Serve"


def test_the_registry_names_who_answers_after_a_corrupt_version_was_refused(shop: SimpleNamespace) -> None:
    good = shop.ledger.release(NAME).champion.version
    version = shop.registry.version(NAME, 4)
    (Path(version.uri) / "model.txt").write_text("broken")
    shop.registry.judge(NAME, 4, released=True, reason="the gate crowns it")
    assert shop.registry.champion(NAME).version == 4
    with pytest.raises(CorruptBundle, match=r"model\.txt"):
        releases.introduce(shop.settings, shop.registry.version(NAME, 4), actor="retrain")
    release = shop.ledger.release(NAME)
    assert (release.champion.version, answering(shop)) == (good, (good, release.sequence))
    assert shop.registry.champion(NAME).version == good
