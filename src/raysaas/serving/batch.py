"""Concurrent requests answered by one vectorised model call, without waiting for anyone."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from raysaas.serving.protocol import PredictRequest

MAX_ROWS = 256

Job = tuple[str, PredictRequest]  # tenant, rows
Decisions = list[dict[str, Any]]
_Waiting = tuple[Job, "asyncio.Future[Decisions]"]


class Batcher:
    """Collects the requests that the event loop reads in one turn and answers them at its end.

    An idle replica answers a lone request in the same turn, so nothing is delayed to fill a batch. When a batch is
    refused, its requests are answered one by one, so that only the wrong one hears of it.
    """

    def __init__(self, decide_all: Callable[[Sequence[Job]], list[Decisions]]) -> None:
        self._decide_all = decide_all
        self._waiting: list[_Waiting] = []

    async def decide(self, tenant: str, request: PredictRequest) -> Decisions:
        """Decisions for the rows of ``request``, in order; raises what its own rows deserve."""
        if len(request.instances) > MAX_ROWS:
            return self._decide_all([(tenant, request)])[0]
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Decisions] = loop.create_future()
        self._waiting.append(((tenant, request), future))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        # A client that left took its future with it: its rows need no decision.
        waiting = [item for item in waiting if not item[1].done()]
        start = 0
        while start < len(waiting):
            end, num_rows = start, 0
            while end < len(waiting) and num_rows < MAX_ROWS:
                num_rows += len(waiting[end][0][1].instances)
                end += 1
            self._answer(waiting[start:end])
            start = end

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            decided = self._decide_all([job for job, _ in batch])
        except Exception as error:  # noqa: BLE001 - whoever awaits must hear of it, or waits for ever
            self._separate(batch, error)
        else:
            for (_, future), decisions in zip(batch, decided, strict=True):
                future.set_result(decisions)

    def _separate(self, batch: Sequence[_Waiting], error: Exception) -> None:
        if len(batch) == 1:
            batch[0][1].set_exception(error)
        else:
            for item in batch:
                self._answer([item])
