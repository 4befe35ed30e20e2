"""HTTP in a replica: uvicorn's own protocol, except that a prediction goes from the parser to the door at once.

ASGI costs a task, a scope, an event and two messages per request, and Ray's middleware, request context and metrics as
much again: twice what the prediction itself takes. What is held here is one ``POST`` of one path, small and whole; all
else, and everything while no :class:`Line` is connected, takes the ordinary way.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from raysaas.errors import NotFound, Terminal
from raysaas.serving.door import Answer, Headers
from raysaas.serving.protocol import PROBLEM_JSON, problem_body

_WHOLE_BYTES = 65_536  # of a body; larger ones are read under flow control
_PATIENCE_S = 0.05  # for the rest of a body; slower ones are awaited by a task

Predict = Callable[[Headers, bytes, Callable[[Answer], None]], bool]


class Line(NamedTuple):
    """Where predictions go; ``ongoing`` is told of each that begins (1) and ends (-1), ``free`` asked for room."""

    path: str
    predict: Predict
    ongoing: Callable[[int], None]
    free: Callable[[], bool]


def connect(line: Line) -> None:
    """Send predictions to ``line`` in HTTP servers that start from now on in this process."""
    Wire.line = line
    HTTP_PROTOCOLS["auto"] = f"{Wire.__module__}:{Wire.__name__}"


def _is_ours(path: str, line: Line) -> bool:
    """Whether Serve may hear of ``path``: it would repeat those of no application, and list all use cases."""
    prefix = line.path.removesuffix("/predict")
    return path == prefix or path.startswith(f"{prefix}/") or path == "/-/healthz"


async def _nowhere(scope: Any, receive: Any, send: Any) -> None:
    body = problem_body(404, NotFound.slug, "There is no use case at this path.")
    headers = [(b"content-type", PROBLEM_JSON), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class Wire(HttpToolsProtocol):
    """One connection."""

    line: ClassVar[Line | None] = None
    _held: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        line, scope = self.line, cycle.scope
        if (
            line is not None
            and scope["path"] == line.path
            and scope["method"] == "POST"
            and cycle.more_body  # of pipelined requests only the first is held
            and app is self.app
            and not cycle.waiting_for_100_continue
            and not self.flow.write_paused
            and line.free()
        ):
            self._held = cycle
        else:
            super()._start_asgi_task(cycle, app if line is None or _is_ours(scope["path"], line) else _nowhere)

    def data_received(self, data: bytes) -> None:
        """Parse what came; a body that is not whole yet is given a moment."""
        super().data_received(data)
        held = self._held
        if held is not None:
            if len(held.body) > _WHOLE_BYTES:
                self._let_go(held)
            else:
                self.loop.call_later(_PATIENCE_S, self._let_go, held)

    def on_message_complete(self) -> None:
        """A request is whole."""
        super().on_message_complete()
        held = self._held
        if held is not None and not held.more_body:
            self._held = None
            if len(held.body) > _WHOLE_BYTES or not self._predict(held):
                super()._start_asgi_task(held, self.app)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as all else is, and the connection ends."""
        body = problem_body(400, Terminal.slug, msg)
        parts = [STATUS_LINE[400], b"content-type: ", PROBLEM_JSON, b"\r\ncontent-length: %d\r\n" % len(body)]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        self.transport.write(b"".join([*parts, b"connection: close\r\n\r\n", body]))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left; what it asked for and is whole is still decided."""
        self._held = None
        super().connection_lost(exc)

    def _let_go(self, cycle: RequestResponseCycle) -> None:
        if self._held is cycle:
            self._held = None
            super()._start_asgi_task(cycle, self.app)

    def _predict(self, cycle: RequestResponseCycle) -> bool:
        line = self.line
        if line is None:
            return False
        line.ongoing(1)
        taken = line.predict(cycle.scope["headers"], bytes(cycle.body), partial(self._answer, cycle, line))
        if not taken:
            line.ongoing(-1)
        return taken

    def _answer(self, cycle: RequestResponseCycle, line: Line, answer: Answer) -> None:
        line.ongoing(-1)
        if cycle.disconnected:
            return
        status, kind, body, extra = answer
        parts = [STATUS_LINE[status], b"content-type: ", kind, b"\r\ncontent-length: %d\r\n" % len(body)]
        for name, value in (*cycle.default_headers, *extra):
            parts += (name, b": ", value, b"\r\n")
        keep = cycle.keep_alive and CLOSE_HEADER not in cycle.scope["headers"] and CLOSE_HEADER not in extra
        parts += (b"\r\n" if keep or CLOSE_HEADER in extra else b"connection: close\r\n\r\n", body)
        self.transport.write(b"".join(parts))
        cycle.response_started = cycle.response_complete = True
        if not keep:
            self.transport.close()
        self.on_response_complete()
