"""The HTTP face of one use case: a plain ASGI app, because a web framework's routing costs more than the model.

A route is (scope of the key, function). Every route needs a key except health, the documentation and the Open Inference
Protocol's liveness checks, which say nothing of any tenant.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from http import HTTPStatus
from importlib.resources import files
from typing import Any, NamedTuple

import orjson

from raysaas.errors import RaysaasError
from raysaas.serving import oip
from raysaas.serving.body import Disconnected, Receive, Scope, Send, read_body
from raysaas.serving.openapi import describe
from raysaas.serving.predictor import Predictor
from raysaas.serving.protocol import JSON, PROBLEM_JSON, problem, problem_body, with_error
from raysaas.serving.spec import AppSpec
from raysaas.stores.online import OnlineStore
from raysaas.tenancy.keys import Access

logger = logging.getLogger(__name__)

# Images: the page's empty icon, which is a data URL.
_CSP = b"default-src 'self'; img-src data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
_EVENTS = "/events/"
_INFERENCE = "/v2/"  # of the Open Inference Protocol


class Answer(NamedTuple):
    """What a route says; ``headers`` are those besides content type and length."""

    status: int
    kind: bytes
    body: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()


class Door:
    """ASGI app over one :class:`Predictor`; ``record(status, seconds)`` is told of every answer."""

    def __init__(
        self,
        predictor: Predictor,
        record: Callable[[int, float], None] = lambda status, seconds: None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.predictor, self._record, self._close = predictor, record, close
        self._by_entity = False
        name = predictor.spec.use_case
        self._post: Mapping[str, tuple[str, Callable[[Access, bytes], Awaitable[bytes]]]] = {
            "/predict": ("predict", predictor.predict),
            "/feedback": ("feedback", predictor.feedback),
            f"/v2/models/{name}/infer": ("predict", lambda access, body: oip.infer(predictor, access, body)),
            **{f"{_EVENTS}{source}": ("events", take) for source, take in predictor.events.routes()},
        }
        self._get: Mapping[str, tuple[str | None, Callable[[], Answer]]] = {
            # Relative to where the client is, so that a proxy may put more in front of the prefix.
            "": (None, lambda: _moved(f"{name}/docs")),
            "/": (None, lambda: _moved("docs")),
            "/health": (None, self._health),
            "/docs": (None, self._docs),
            "/openapi.json": (None, self._openapi),
            "/drift": ("predict", self._drift),
            "/v2": ("predict", lambda: _json(oip.SERVER)),
            "/v2/health/live": (None, lambda: _json({"live": True})),
            "/v2/health/ready": (None, self._ready),
            f"/v2/models/{name}": ("predict", lambda: _json(oip.metadata(predictor))),
            f"/v2/models/{name}/ready": (None, self._ready),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; lifespan events are accepted, other protocols closed."""
        if scope["type"] != "http":
            await self._not_http(scope, receive, send)
            return
        started = time.perf_counter()
        try:
            status, kind, body, extra = await self._answer(scope, receive)
        except RaysaasError as error:
            if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                logger.error("Request failed: %s", error)
            (status, body, extra), kind = problem(error), PROBLEM_JSON
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - the last line of defence: nothing internal may leak
            # The type and place only: a message may repeat feature values.
            logger.error("Bug in a request: %s at %s", type(error).__name__, _place(error))
            detail = "This is a bug; the operator can find it in the log."
            status, kind, body, extra = _refusal(500, "internal", detail)
        if kind is PROBLEM_JSON and f"{_path(scope)}/".startswith(_INFERENCE):
            body = with_error(body)
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        self._record(status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = _path(scope), scope["method"]
        if method == "POST" and path in self._post:
            return await self._act(path, scope, receive)
        if method in ("GET", "HEAD") and path in self._get:
            need, show = self._get[path]
            if need:
                self.predictor.gate.admit(dict(scope["headers"]).get(b"authorization", b""), need)
            return await asyncio.to_thread(show)
        if path in self._post or path in self._get:
            detail = f"{method} is not allowed here: expected {'POST' if path in self._post else 'GET'}."
            return _refusal(405, "method-not-allowed", detail)
        if path.startswith(_EVENTS):
            return _refusal(404, "not-found", self.predictor.events.unknown())
        return _refusal(404, "not-found", "There is no such route. GET docs lists those of this use case.")

    async def _act(self, path: str, scope: Scope, receive: Receive) -> Answer:
        need, act = self._post[path]
        authorization = length = encoding = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                length = value
            elif name == b"content-encoding":
                encoding = value
        access = self.predictor.gate.admit(authorization, need)
        body = await read_body(receive, length, encoding, self.predictor.spec.serve.max_body_bytes)
        return Answer(202 if path.startswith(_EVENTS) else 200, JSON, await act(access, body))

    async def _not_http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        while True:
            step = (await receive())["type"].rpartition(".")[2]
            if step == "shutdown":
                self._close()
            await send({"type": f"lifespan.{step}.complete"})
            if step == "shutdown":
                return

    def _health(self) -> Answer:
        health = self.predictor.health()
        return _json(health, 503 if health["status"] == "starting" else 200)

    def _ready(self) -> Answer:
        return _json({"name": self.predictor.spec.use_case, "ready": self.predictor.answering.sequence > 0})

    def _openapi(self) -> Answer:
        spec = self.predictor.spec
        # Counting takes a moment once there are rows, so it is done until there are.
        self._by_entity = self._by_entity or _any_online(spec)
        return _json(describe(spec, self.predictor.answering.champion.bundle, self._by_entity))

    def _docs(self) -> Answer:
        page = files("raysaas.serving").joinpath("docs.html").read_bytes()
        return Answer(200, b"text/html; charset=utf-8", page, [(b"content-security-policy", _CSP)])

    def _drift(self) -> Answer:
        reports = self.predictor.ledger.drift(self.predictor.spec.use_case, 50)
        return _json({"reports": [asdict(report) for report in reports]})


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, JSON, orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


def _moved(location: str) -> Answer:
    return Answer(307, b"text/plain; charset=utf-8", b"", [(b"location", location.encode())])


def _refusal(status: int, slug: str, detail: str) -> Answer:
    return Answer(status, PROBLEM_JSON, problem_body(status, slug, detail))


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _any_online(spec: AppSpec) -> bool:
    """Whether an entity has features online, which a use case without entities never has."""
    if not spec.views:
        return False
    with closing(OnlineStore(str(spec.storage.online_url))) as store:
        return any(store.count(view) for view in spec.views)


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
