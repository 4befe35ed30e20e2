"""A load generator of keep-alive connections in a process of its own, cheap enough to leave the core to the server."""

import asyncio
import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
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
    """Requests a second, p50, p95 and p99 in milliseconds, and what was no 200."""

    rps: float
    p50: float
    p95: float
    p99: float
    failed: int


class _Connection(asyncio.Protocol):
    def __init__(
        self, call: Call, due: Iterator[float], until: float, latencies: list[float], failed: list[str]
    ) -> None:
        self._call, self._due, self._until, self._latencies, self._failed = call, due, until, latencies, failed
        self._answer = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Send the first request when it is due."""
        self._transport = transport
        self._next()

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
            self._next()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over; whoever waits opens another."""
        if not self.over.done():
            self.over.set_result(None)

    def _next(self) -> None:
        # What is overdue has waited since then, whoever made it wait.
        self._sent = next(self._due)
        wait_s = self._sent - time.perf_counter()
        if wait_s > 0.0:
            asyncio.get_running_loop().call_later(wait_s, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self._transport.write(self._call.request)


def _due_at(first: float, every_s: float) -> Iterator[float]:
    """When requests of one connection are due; all at once with ``every_s=0``."""
    while True:
        yield first if every_s else time.perf_counter()
        first += every_s


def _whole(answer: bytes) -> bool:
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = answer[:end].lower()
    at = head.find(b"content-length:")
    if at < 0:
        return answer.endswith(b"0\r\n\r\n")
    return len(answer) - end - 4 >= int(head[at + 15 :].split(b"\r\n", 1)[0])


async def _keep(call: Call, due: Iterator[float], until: float, latencies: list[float], failed: list[str]) -> None:
    # HAProxy closes idle connections when it reloads its servers: any HTTP client connects again.
    while time.perf_counter() < until:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(call, due, until, latencies, failed), "127.0.0.1", call.port
        )
        await connection.over


def _load(calls: Sequence[Call], num: int, seconds: float, rate: float, results: Any) -> None:
    import uvloop

    latencies: list[float] = []
    failed: list[str] = []

    async def main() -> None:
        now, every_s = time.perf_counter(), num / rate if rate else 0.0
        due = [_due_at(now + every_s * i / num, every_s) for i in range(num)]
        await asyncio.gather(
            *(_keep(calls[i % len(calls)], due[i], now + seconds, latencies, failed) for i in range(num))
        )

    uvloop.run(main())
    results.put((sorted(latencies), failed))


class Load:
    """``num`` connections that send ``calls`` in turn for ``seconds``, in the background.

    With ``rate`` they send so many a second together, and a latency counts from when its request was due.
    """

    def __init__(self, calls: Sequence[Call], num: int, seconds: float, rate: float = 0.0) -> None:
        context = multiprocessing.get_context("spawn")
        self._seconds, self._results = seconds, context.Queue()
        self._client = context.Process(target=_load, args=(calls, num, seconds, rate, self._results))
        self._client.start()

    def result(self) -> Measured:
        """Wait for the end; RuntimeError when nothing was answered."""
        latencies, failed = self._results.get(timeout=self._seconds + 30)
        self._client.join()
        if not latencies:
            raise RuntimeError("nothing was answered")
        if failed and " 429 " not in failed[0]:  # whoever asks for more than its quota knows what it gets
            print("failed:", failed[0].splitlines()[0], flush=True)
        count = len(latencies)
        p50, p95, p99 = (latencies[int(count * part)] * 1e3 for part in (0.5, 0.95, 0.99))
        return Measured(count / self._seconds, p50, p95, p99, len(failed))


def measure(calls: Sequence[Call], num: int, seconds: float) -> Measured:
    """Run a load to its end."""
    return Load(calls, num, seconds).result()
