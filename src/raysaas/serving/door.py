"""The HTTP face of one use case: a plain ASGI app, because a web framework's routing costs more than the model.

A route is (scope of the key, function). Every route needs a key except health, the documentation and the Open Inference
Protocol's liveness checks, which say nothing of any tenant.
"""

import asyncio
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from http import HTTPStatus
from importlib.resources import files
from typing import Any, NamedTuple

import orjson

from raysaas.errors import DeadlineExceeded, InputError, RaysaasError
from raysaas.serving import oip
from raysaas.serving.batch import Decisions
from raysaas.serving.body import Disconnected, Receive, Scope, Send, read_body
from raysaas.serving.openapi import describe
from raysaas.serving.predictor import Predictor
from raysaas.serving.protocol import JSON, PROBLEM_JSON, decisions_body, problem, problem_body, with_error
from raysaas.serving.spec import AppSpec
from raysaas.stores.online import OnlineStore
from raysaas.tenancy.keys import Access

logger = logging.getLogger(__name__)

# Images: the page's empty icon, which is a data URL.
_CSP = b"default-src 'self'; img-src data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'"
_EVENTS = "/events/"
_INFERENCE = "/v2/"  # of the Open Inference Protocol
_PREDICT = "/predict"
_TIMEOUT = b"x-request-timeout-ms"
_REQUEST_ID = b"x-request-id"
_is_id = re.compile(rb"[ -~]{1,128}").fullmatch

Headers = Sequence[tuple[bytes, bytes]]
Act = Callable[[Access, bytes, float], Awaitable[bytes]]  # the last is the deadline, on the clock of time.monotonic
_MODELS = "/v2/models/"


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
        self._post: Mapping[str, tuple[str, Act]] = {
            _PREDICT: ("predict", predictor.predict),
            "/feedback": ("feedback", _undated(predictor.feedback)),
            **{f"{_EVENTS}{source}": ("events", _undated(take)) for source, take in predictor.events.routes()},
        }
        self._infer = f"{_MODELS}{name}/infer"
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
        except Disconnected:
            return
        except Exception as error:  # noqa: BLE001 - the last line of defence: nothing internal may leak
            status, kind, body, extra = _refused(error)
        if kind is PROBLEM_JSON and f"{_path(scope)}/".startswith(_INFERENCE):
            body = with_error(body)
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), *extra]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
        self._record(status, time.perf_counter() - started)

    def predict(self, headers: Headers, body: bytes, answer: Callable[[Answer], None]) -> bool:
        """``POST /predict`` of which all is there, without ASGI's cost: ``answer`` is called once, now or in a moment.

        False, and nothing was done, for the few that need more: packed bodies, and those over the limit. The answer has
        the caller's ``X-Request-ID``, or one of its own: that of its first decision.
        """
        started = time.perf_counter()
        authorization = timeout = request_id = b""
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == _TIMEOUT:
                timeout = value
            elif name == _REQUEST_ID:
                request_id = value if _is_id(value) else b""
            elif name == b"content-encoding":
                return False
        if len(body) > self.predictor.spec.serve.max_body_bytes:
            return False

        def done(result: Decisions | Exception) -> None:
            if isinstance(result, Exception):
                status, kind, body, extra = _refused(result)
                own = request_id or uuid.uuid4().hex.encode()
            else:
                status, kind, body, extra = 200, JSON, decisions_body(result), ()
                own = request_id or result[0]["decision_id"].encode()
            answer(Answer(status, kind, body, ((_REQUEST_ID, own), *extra)))
            self._record(status, time.perf_counter() - started)

        try:
            access = self.predictor.gate.admit(authorization, "predict")
            self.predictor.submit(access, body, _deadline(timeout), done)
        except Exception as error:  # noqa: BLE001 - as in __call__
            done(error)
        return True

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        path, method = _path(scope), scope["method"]
        if path.startswith(_MODELS):
            path = oip.unversioned(path, self.predictor)
        if method == "POST" and (path in self._post or path == self._infer):
            return await self._act(path, scope, receive)
        if method in ("GET", "HEAD") and path in self._get:
            need, show = self._get[path]
            if need:
                self.predictor.gate.admit(dict(scope["headers"]).get(b"authorization", b""), need)
            return await asyncio.to_thread(show)
        if path in self._post or path in self._get or path == self._infer:
            expected = "GET" if path in self._get else "POST"
            return _refusal(405, "method-not-allowed", f"{method} is not allowed here: expected {expected}.", expected)
        if path.startswith(_EVENTS):
            return _refusal(404, "not-found", self.predictor.events.unknown())
        return _refusal(404, "not-found", "There is no such route. GET docs lists those of this use case.")

    async def _act(self, path: str, scope: Scope, receive: Receive) -> Answer:
        need, act = self._post.get(path, ("predict", None))
        authorization = length = encoding = header = timeout = b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                length = value
            elif name == b"content-encoding":
                encoding = value
            elif name == oip.HEADER:
                header = value
            elif name == _TIMEOUT:
                timeout = value
        access = self.predictor.gate.admit(authorization, need)
        deadline = _deadline(timeout)
        with self.predictor.uploads.place(access.tenant):
            body = await read_body(receive, length, encoding, self.predictor.spec.serve.max_body_bytes)
        if act is None:
            return Answer(200, *await oip.infer(self.predictor, access, body, header, deadline))
        return Answer(202 if path.startswith(_EVENTS) else 200, JSON, await act(access, body, deadline))

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
        champion = self.predictor.answering.champion
        return _json(describe(spec, champion.bundle, self._by_entity, champion.number))

    def _docs(self) -> Answer:
        page = files("raysaas.serving").joinpath("docs.html").read_bytes()
        return Answer(200, b"text/html; charset=utf-8", page, [(b"content-security-policy", _CSP)])

    def _drift(self) -> Answer:
        reports = self.predictor.ledger.drift(self.predictor.spec.use_case, 50)
        return _json({"reports": [asdict(report) for report in reports]})


def _json(value: Any, status: int = 200) -> Answer:
    return Answer(status, JSON, orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


def _undated(act: Callable[[Access, bytes], Awaitable[bytes]]) -> Act:
    """``act`` for requests that are over as soon as they begin."""
    return lambda access, body, deadline: act(access, body)


def _deadline(timeout: bytes) -> float:
    """When a request must be answered that came now with this ``X-Request-Timeout-Ms``."""
    if not timeout:
        return math.inf
    try:
        milliseconds = float(timeout)
    except ValueError:
        milliseconds = math.nan
    if not milliseconds >= 0:
        raise InputError("X-Request-Timeout-Ms must be a number of milliseconds, such as 250.")
    return time.monotonic() + milliseconds / 1000.0


def _refused(error: Exception) -> Answer:
    """What the client is told of ``error``; the log hears of those that are not the client's own."""
    if not isinstance(error, RaysaasError):
        # The type and place only: a message may repeat feature values.
        logger.error("Bug in a request: %s at %s", type(error).__name__, _place(error))
        return _refusal(500, "internal", "This is a bug; the operator can find it in the log.")
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, DeadlineExceeded):
        logger.error("Request failed: %s", error)
    status, body, extra = problem(error)
    return Answer(status, PROBLEM_JSON, body, extra)


def _moved(location: str) -> Answer:
    return Answer(307, b"text/plain; charset=utf-8", b"", [(b"location", location.encode())])


def _refusal(status: int, slug: str, detail: str, allow: str = "") -> Answer:
    headers = [(b"allow", allow.encode())] if allow else []
    return Answer(status, PROBLEM_JSON, problem_body(status, slug, detail), headers)


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
