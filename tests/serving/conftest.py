"""Real bundles, a real ledger with real keys, and a client that talks ASGI to the real door."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from raysaas.models import bundle
from raysaas.models.encode import Encoder
from raysaas.models.network import build
from raysaas.models.profile import Profile
from raysaas.records import Family, Task
from raysaas.serving.door import Door
from raysaas.serving.predictor import Predictor
from raysaas.serving.spec import AppSpec, EventSource
from raysaas.settings import Serve, Storage
from raysaas.stores.ledger import Ledger
from raysaas.tenancy.keys import new_key
from raysaas.use_case import Column, Source

KINDS = {"amount": "number", "visits": "integer", "vip": "boolean", "plan": "category"}
LABELS = {Task.binary: ["No", "Yes"], Task.multiclass: ["a", "b", "c"], Task.regression: []}
ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}


def columns(num: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "amount": rng.normal(10, 3, num), "visits": rng.integers(0, 9, num).astype(float),
        "vip": rng.integers(0, 2, num).astype(float), "plan": rng.choice(["free", "pro"], num).astype(object),
    }  # fmt: skip


def make_bundle(
    out: Path, task: Task = Task.binary, seed: int = 0, kinds: dict[str, str] | None = None
) -> dict[str, Any]:
    """A small real network; returns its arm of a release (without the version)."""
    data, kinds = columns(), kinds or KINDS
    encoder = Encoder.fit(data, kinds, {"amount": "Amount (EUR)"})
    labels = LABELS[task]
    digest = bundle.save(
        out, encoder=encoder, task=task, labels=labels, family=Family.network,
        profile=Profile.fit(data, kinds, np.random.default_rng(1).random(200)),
        network=build(encoder.width, len(labels) if task is Task.multiclass else 1, [8], 0.0, seed=seed),
    )  # fmt: skip
    return {"uri": str(out), "digest": digest}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Client:
    """Speaks ASGI; ``chunks`` are the body as it arrives."""

    door: Door
    key: str = ""
    received: int = field(default=0)

    def __call__(self, method: str, path: str, body: Any = None, *, key: str | None = None,
                 headers: dict[str, str] | None = None, chunks: list[bytes] | None = None) -> Reply:  # fmt: skip
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        sent: list[dict[str, Any]] = []
        parts = [raw] if chunks is None else chunks
        self.received = 0

        async def receive() -> dict[str, Any]:
            self.received += 1
            part = parts[self.received - 1]
            return {"type": "http.request", "body": part, "more_body": self.received < len(parts)}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        auth = self.key if key is None else key
        lines = {"content-length": str(len(raw))} if chunks is None else {}
        lines |= ({"authorization": f"Bearer {auth}"} if auth else {}) | (headers or {})
        scope = {
            "type": "http", "method": method, "path": f"/shop{path}", "root_path": "/shop",
            "headers": [(k.lower().encode(), v.encode()) for k, v in lines.items()],
        }  # fmt: skip
        asyncio.run(self.door(scope, receive, send))
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(m["body"] for m in sent[1:]))


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Build a replica in process: ``make_app(task=..., serve={...}, views=(...), sources={...})``."""

    def make(
        task: Task = Task.binary,
        serve: dict[str, Any] | None = None,
        views: tuple[str, ...] = (),
        sources: dict[str, Source] | None = None,
        contract: dict[str, Column] | None = None,
    ) -> SimpleNamespace:
        storage = Storage(home=str(tmp_path / "var"))
        ledger = Ledger(str(storage.ledger_url))
        keys = {}
        for tenant, scopes in (
            ("acme", ["predict", "feedback", "events"]), ("umbrella", ["predict"]), ("root", ["admin"]),
        ):  # fmt: skip
            keys[tenant], digest = new_key()
            ledger.add_key(digest, tenant, scopes)
        events = {name: EventSource.of(source) for name, source in (sources or {}).items()}
        spec = AppSpec(
            use_case="shop",
            task=task,
            storage=storage,
            serve=Serve(**(serve or {})),
            views=views,
            events=events,
            contract=contract or {},
        )
        clock = SimpleNamespace(now=1_760_000_000.0)
        predictor = Predictor(spec, lambda: clock.now)
        arm = make_bundle(tmp_path / "bundles" / "1", task)
        predictor.release({"sequence": 1, "champion": {"version": 1, **arm}})
        return SimpleNamespace(
            client=Client(Door(predictor), keys["acme"]), predictor=predictor, keys=keys, ledger=ledger, clock=clock,
            spec=spec, arm=arm, bundles=tmp_path / "bundles", make_bundle=make_bundle,
        )  # fmt: skip

    return make
