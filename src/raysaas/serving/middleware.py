"""What Serve puts around every HTTP application: a request is carried out even if its client goes away.

A prediction is over in a millisecond and journaled: a disconnect must not cancel it between the two. Telling Serve so
also saves the task that it would start per request to watch the connection.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

_UNWATCHED = (b"x-request-disconnect-disabled", b"?1")


class Unwatched:
    """ASGI middleware that gives each request the header by which a client asks Serve not to watch for disconnects."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass the request on, marked."""
        if scope["type"] == "http":
            scope["headers"] = [*scope["headers"], _UNWATCHED]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Import path for ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``; proxies and replicas call it when they start."""
    return [Middleware(Unwatched)]
