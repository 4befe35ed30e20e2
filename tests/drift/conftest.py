"""A real, tiny bundle, a journal and a ledger: what a watch needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.profile import Profile
from raysaas.records import Arm, Family, Release, RetrainOrder, Task, Variant
from raysaas.settings import Drift
from raysaas.stores.journal import Journal
from raysaas.stores.ledger import Ledger

USE_CASE = "shop"
KINDS = {"age": "number", "plan": "category"}
START = datetime(2026, 1, 1, tzinfo=UTC)


def rows(num: int, seed: int, shift: float = 0.0, plans: Sequence[str] = ("basic", "pro")) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"age": rng.normal(40 + shift, 10, num), "plan": rng.choice(np.array(plans, dtype=object), num)}


def risk(columns: dict[str, np.ndarray]) -> np.ndarray:
    return 1 / (1 + np.exp(-(np.nan_to_num(columns["age"], nan=40.0) - 40) / 10))


def make_bundle(out: Path, version: int = 1, metrics: dict[str, float] | None = None) -> Arm:
    columns = rows(4000, seed=0)
    label = (np.random.default_rng(1).random(4000) < risk(columns)).astype(float)
    encoder = Encoder.fit(columns, KINDS)
    booster = lightgbm.train({"objective": "binary", "verbose": -1, "num_leaves": 4, "num_threads": 1},
                             lightgbm.Dataset(encoder.matrix(columns), label), 5)  # fmt: skip
    meta = {"version": version, **({"metrics": metrics} if metrics else {})}
    digest = bundle.save(out, encoder=encoder, task=Task.binary, labels=["no", "yes"], family=Family.trees,
                         profile=Profile.fit(columns, KINDS, risk(columns)), trees=booster.model_to_string(),
                         meta=meta)  # fmt: skip
    return Arm(version=version, uri=str(out), digest=digest)


@dataclass
class Shop:
    """One use case with traffic: ``decide`` journals decisions, ``observe`` their outcomes."""

    root: Path
    ledger: Ledger
    arms: list[Arm]
    orders: list[RetrainOrder] = field(default_factory=list)
    now: datetime = START
    num_decided: int = 0

    def journal(self, kind: str) -> Journal:
        return Journal(self.root / "journal", USE_CASE, kind)

    def release(self, arm: Arm, challenger: Arm | None = None) -> Release:
        last = self.ledger.release(USE_CASE)
        variants = (Variant(name="challenger", arm=challenger, share=0.5),) if challenger else ()
        release = Release(use_case=USE_CASE, sequence=last.sequence + 1 if last else 1, champion=arm, actor="test",
                          variants=variants, reason="test", at=self.now)  # fmt: skip
        self.ledger.set_release(release)
        return release

    def decide(
        self, columns: dict[str, np.ndarray], version: int = 1, journal: Journal | None = None, *,
        at: datetime | None = None,
    ) -> list[str]:  # fmt: skip
        """One request per row, or one of all rows ``at`` a moment."""
        records = []
        for age, plan, score in zip(columns["age"], columns["plan"], risk(columns), strict=True):
            self.num_decided += 1
            records.append({"id": f"d{self.num_decided:06d}", "use_case": USE_CASE, "tenant": "t", "entity": None,
                            "inputs": {"age": float(age), "plan": plan}, "version": version, "arm": "champion",
                            "score": float(score), "label": "yes" if score > 0.5 else "no",
                            "time": (at or self.tick()).isoformat()})  # fmt: skip
        (journal or self.journal("decisions")).append(records)
        return [record["id"] for record in records]

    def observe(self, ids: Sequence[str], labels: Sequence[str]) -> None:
        known = {"use_case": USE_CASE, "tenant": "t", "observed_at": self.tick().isoformat()}
        records = [{"decision_id": key, "label": label, **known} for key, label in zip(ids, labels, strict=True)]
        self.journal("outcomes").append(records)

    def tick(self, seconds: float = 0.01) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def watch(self, **drift: Any) -> Any:
        from raysaas.drift.watch import Watch

        journal = str(self.root / "journal")
        return Watch(USE_CASE, journal, self.ledger, Drift(**drift), self.orders.append, clock=self.tick)


@pytest.fixture(scope="session")
def arms(tmp_path_factory: pytest.TempPathFactory) -> list[Arm]:
    root = tmp_path_factory.mktemp("bundles")
    return [make_bundle(root / str(version), version, {"auc": 0.76}) for version in (1, 2)]


@pytest.fixture
def shop(tmp_path: Path, arms: list[Arm]) -> Shop:
    return Shop(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"), arms)


@pytest.fixture
def make_shop(arms: list[Arm]) -> Callable[[Path], Shop]:
    return lambda root: Shop(root, Ledger(f"sqlite:///{root}/ledger.db"), arms)
