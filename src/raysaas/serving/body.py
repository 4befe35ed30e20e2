"""Reading a request body from ASGI without ever holding more than the limit."""

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from raysaas.errors import PayloadTooLarge, Terminal

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Disconnected(Exception):
    """The client left before its request was complete; nobody is there to answer."""


async def read_body(receive: Receive, length: bytes, encoding: bytes, limit: int) -> bytes:
    """Return the body, decompressed when ``encoding`` is gzip.

    Raises
    ------
    PayloadTooLarge
        ``length`` (the Content-Length header) or what came so far, packed or unpacked, is over ``limit`` bytes.
    """
    if length.isdigit() and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body") or message["type"] != "http.request":
        body = await _read_rest(receive, message, limit)
    if len(body) > limit:
        raise _too_large(limit)
    return _unpack(body, encoding, limit) if encoding else body


async def _read_rest(receive: Receive, message: MutableMapping[str, Any], limit: int) -> bytes:
    body = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > limit:
            raise _too_large(limit)
        if not message.get("more_body"):
            return bytes(body)
        message = await receive()


def _unpack(body: bytes, encoding: bytes, limit: int) -> bytes:
    name = encoding.strip().lower()
    if name == b"identity":
        return body
    if name != b"gzip":
        raise Terminal(f"Content-Encoding {encoding.decode('latin-1')[:40]!r} is not supported: send gzip or identity.")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Terminal("The body is not valid gzip.") from None
    if len(unpacked) > limit:
        raise _too_large(limit)
    if not unpacker.eof:
        raise Terminal("The gzip body is incomplete.")
    return unpacked


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is over the limit of {limit} bytes: send fewer rows in a request.")
