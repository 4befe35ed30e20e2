"""An ASGI application behind a real uvicorn in a thread."""

import asyncio
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn


@contextmanager
def live(app, log_level="critical"):
    """The server, once it listens, and its port; it ends with its requests."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, root_path="/shop", lifespan="off", log_level=log_level))
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield server, sock.getsockname()[1]
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()
