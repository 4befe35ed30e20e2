"""A load generator of keep-alive connections in a process of its own, cheap enough to leave the core to the server."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Sequence
from typing import Any, NamedTuple


class Call(NamedTuple):
    """What is sent, over and over: to ``port``, in bytes."""

    port: int
    request: bytes


def call(port: int, path: str, body: Any, key: str) -> Call:
    """``POST path`` with ``body`` as JSON."""
    raw = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: bench", "Content-Type: application/json", f"Content-Length: {len(raw)}"]
    return Call(port, "\r\n".join([*lines, f"Authorization: Bearer {key}", "", ""]).encode() + raw)


class Measured(NamedTuple):
    """Requests a second, p50 and p99 in milliseconds, and what was no 200."""

    rps: float
    p50: float
    p99: float
    failed: int


class _Connection(asyncio.Protocol):
    def __init__(self, call: Call, until: float, latencies: list[float], failed: list[str]) -> None:
        self._call, self._until, self._latencies, self._failed = call, until, latencies, failed
        self._answer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Count a whole answer and send the next request."""
        self._answer = self._answer + data if self._answer else data
        if not _whole(self._answer):
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if not self._answer.startswith(b"HTTP/1.1 200"):
            self._failed.append(self._answer[:300].decode())
        self._answer = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over; whoever waits opens another."""
        if not self.over.done():
            self.over.set_result(None)

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._call.request)


def _whole(answer: bytes) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return answer.endswith(b"0\r\n\r\n")
    return len(answer) - end - 4 >= int(head[at + 15 :].split(b"\r\n", 1)[0])


async def _keep(call: Call, until: float, latencies: list[float], failed: list[str]) -> None:
    # HAProxy closes idle connections when it reloads its servers: any HTTP client connects again.
    while time.perf_counter() < until:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(call, until, latencies, failed), "127.0.0.1", call.port
        )
        await connection.over


def _load(calls: Sequence[Call], num: int, seconds: float, results: Any) -> None:
    import uvloop

    latencies: list[float] = []
    failed: list[str] = []

    async def main() -> None:
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_keep(calls[i % len(calls)], until, latencies, failed) for i in range(num)))

    uvloop.run(main())
    results.put((sorted(latencies), failed))


class Load:
    """``num`` connections that send ``calls`` in turn for ``seconds``, in the background."""

    def __init__(self, calls: Sequence[Call], num: int, seconds: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._seconds, self._results = seconds, context.Queue()
        self._client = context.Process(target=_load, args=(calls, num, seconds, self._results))
        self._client.start()

    def result(self) -> Measured:
        """Wait for the end; RuntimeError when nothing was answered."""
        latencies, failed = self._results.get(timeout=self._seconds + 30)
        self._client.join()
        if not latencies:
            raise RuntimeError("nothing was answered")
        if failed:
            print("failed:", failed[0].splitlines()[0], flush=True)
        count = len(latencies)
        return Measured(
            count / self._seconds, latencies[count // 2] * 1e3, latencies[int(count * 0.99)] * 1e3, len(failed)
        )


def measure(calls: Sequence[Call], num: int, seconds: float) -> Measured:
    """Run a load to its end."""
    return Load(calls, num, seconds).result()
