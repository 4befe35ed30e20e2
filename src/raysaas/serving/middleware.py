"""What Serve puts around every HTTP application: a request is carried out even if its client goes away.

A prediction is over in a millisecond and journaled: a disconnect must not cancel it between the two. Telling Serve so
also saves the task that it would start per request to watch the connection.

In a replica, predictions do not even come this far: they are answered in front of Serve (:mod:`raysaas.serving.wire`).
The replica still counts them among its ongoing requests, for its autoscaler and for draining, and takes over whenever
there are more than it may have. That needs names which Serve does not promise; without one of them Serve's own way is
taken, and the log says so.
"""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

logger = logging.getLogger(__name__)

_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class Unwatched:
    """ASGI middleware that gives each request the header by which a client asks Serve not to watch for disconnects."""

    def __init__(self, app: App) -> None:
        self._app = app
        connect(app)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, marked."""
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], _UNWATCHED]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Import path for ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``; proxies and replicas call it when they start."""
    return [Middleware(Unwatched)]


def connect(app: Any) -> bool:
    """Answer predictions of the replica that is behind ``app`` in front of Serve; False for anything else."""
    replica = getattr(getattr(app, "_app", None), "__self__", None)
    door = getattr(replica, "_user_callable_asgi_app", None)
    if not hasattr(door, "predict"):
        return False  # a proxy, or an application that is not ours
    from raysaas.serving import wire

    try:
        wire.connect(_line(replica, door))
    except (AttributeError, ImportError, TypeError) as error:
        logger.warning("Predictions take Serve's own, slower way: Ray has changed (%s).", error)
        return False
    return True


def _line(replica: Any, door: Any) -> Any:
    """The way to ``door``, as the replica's books need it. Raises what shows that they are not as expected."""
    from ray.serve._private.common import RequestMetadata, RequestProtocol

    from raysaas.serving.wire import Line

    prefix = replica._route_prefix
    metadata = RequestMetadata(
        request_id="",
        internal_request_id="",
        route=prefix,
        app_name=replica._deployment_id.app_name,
        is_streaming=True,
        _request_protocol=RequestProtocol.HTTP,
        is_direct_ingress=True,
    )
    books, semaphore = replica._metrics_manager, replica._semaphore
    begin, end = books.inc_num_ongoing_requests, books.dec_num_ongoing_requests
    begin(metadata)
    end(metadata)
    if replica._user_callable_wrapper._run_user_code_in_separate_thread:
        raise AttributeError("applications do not run in the loop of their HTTP server")
    root = replica._http_options.root_path or ""
    return Line(
        path=f"{root}{prefix}/predict",
        predict=door.predict,
        ongoing=lambda change: begin(metadata) if change > 0 else end(metadata),
        free=lambda: books.get_num_ongoing_requests() < replica.max_ongoing_requests and not semaphore.locked(),
    )
