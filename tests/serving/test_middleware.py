"""What Serve puts around every application."""

import asyncio
from typing import Any

from ray.serve._private.http_util import parse_disconnect_disabled_header

from raysaas.serving.environment import serve_environment
from raysaas.serving.middleware import middlewares


def test_serve_takes_every_request_for_one_it_need_not_watch() -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], receive: object, send: object) -> None:
        seen.append(scope)

    (middleware,) = middlewares()
    wrapped: Any = middleware.cls(app, *middleware.args, **middleware.kwargs)
    headers = [(b"host", b"h"), (b"x-request-disconnect-disabled", b"?0")]
    asyncio.run(wrapped({"type": "http", "headers": headers}, None, None))
    asyncio.run(wrapped({"type": "lifespan"}, None, None))
    assert parse_disconnect_disabled_header(dict(seen[0]["headers"]))
    assert headers == [(b"host", b"h"), (b"x-request-disconnect-disabled", b"?0")]
    assert seen[1] == {"type": "lifespan"}


def test_the_path_that_serve_imports_is_the_function() -> None:
    module, _, name = serve_environment()["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"].partition(":")
    assert (module, name) == (middlewares.__module__, middlewares.__name__)
