"""Reading a request body from ASGI without ever holding more than the limit."""

import asyncio
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from raysaas.errors import PayloadTooLarge, Terminal, TooSlow
from raysaas.serving.protocol import OverQuota

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TIMEOUT_S = 30.0
_TENANTS = 4  # that it takes, at least, to fill all places with slow bodies
_WINDOWS = {"gzip": 31, "deflate": 15}  # what zlib calls the two formats


class Disconnected(Exception):
    """The client left before its request was complete; nobody is there to answer."""


class Uploads:
    """Bodies on their way to a replica that has ``places`` requests at once: slow ones of one tenant take a part only.

    Those that are all there when they are read count for nothing.
    """

    def __init__(self, places: int) -> None:
        self._most = max(places // _TENANTS, 1)
        self._num: Counter[str] = Counter()

    @contextmanager
    def place(self, tenant: str) -> Iterator[None]:
        """Hold a place while the body is read. Raises OverQuota when ``tenant`` has no more."""
        if self._num[tenant] >= self._most:
            raise OverQuota(f"{self._most} bodies of this tenant are on their way: send the next when they are there.")
        self._num[tenant] += 1
        try:
            yield
        finally:
            self._num[tenant] -= 1
            if not self._num[tenant]:
                del self._num[tenant]


async def read_body(
    receive: Receive, length: bytes, encoding: bytes, limit: int, timeout_s: float = TIMEOUT_S
) -> bytes:
    """Return the body, decompressed when ``encoding`` is gzip or deflate.

    Raises
    ------
    PayloadTooLarge
        ``length`` (the Content-Length header) or what came so far, packed or unpacked, is over ``limit`` bytes.
    TooSlow
        It is not all there after ``timeout_s``: whoever sends a byte now and then must not hold a place for long.
    """
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read(receive, limit)
    except TimeoutError:
        raise TooSlow(f"The body did not arrive within {timeout_s:g} s.") from None
    return _unpack(body, encoding, limit) if encoding else body


async def _read(receive: Receive, limit: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    name = encoding.strip().lower().decode("latin-1")
    if name == "identity":
        return body
    if name not in _WINDOWS:
        raise Terminal("The Content-Encoding is not supported: send gzip, deflate or identity.")
    unpacker = zlib.decompressobj(wbits=_WINDOWS[name])
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Terminal(f"The body is not valid {name}.") from None
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof or unpacker.unused_data:
        raise Terminal(f"The {name} body is incomplete, or more follows it.")
    return unpacked


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over the limit of {limit} bytes: send fewer rows in a request.")
