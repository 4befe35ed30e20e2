"""Concurrent requests answered by one vectorised model call, without waiting for anyone."""

import asyncio
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from raysaas.errors import DeadlineExceeded
from raysaas.serving.protocol import PredictRequest

MAX_ROWS = 256
_MEMORY = 0.1  # weight of the newest turn in the running mean of what one takes

Job = tuple[str, PredictRequest]  # tenant, rows
Decisions = list[dict[str, Any]]
Done = Callable[[Decisions | Exception], None]


class _Waiting(NamedTuple):
    job: Job
    done: Done
    deadline: float
    since: float


class Batcher:
    """Collects the requests that the event loop reads in one turn and answers them at its end.

    An idle replica answers a lone request in the same turn, so nothing is delayed to fill a batch. When a batch is
    refused, its requests are answered one by one, so that only the wrong one hears of it.
    """

    def __init__(
        self, decide_all: Callable[[Sequence[Job]], list[Decisions]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._decide_all, self._clock = decide_all, clock
        self._waiting: list[_Waiting] = []
        self.turn_s = 0.0  # running mean of how long a request waits and is worked on

    def submit(self, job: Job, done: Done, deadline: float = inf) -> None:
        """Hand in a request; ``done`` is called once, now or in the loop's next turn, with decisions or the refusal.

        ``deadline`` is on the batcher's clock: what cannot be done by then is refused with DeadlineExceeded.
        """
        now = self._clock()
        waiting = _Waiting(job, done, deadline, now)
        if deadline < inf and now + self.turn_s > deadline:
            self.turn_s *= 1.0 - _MEMORY  # or one slow turn would refuse for ever
            done(_late())
        elif len(job[1].instances) > MAX_ROWS:
            self._answer([waiting])
        else:
            self._waiting.append(waiting)
            if len(self._waiting) == 1:
                asyncio.get_running_loop().call_soon(self._flush)

    async def decide(self, tenant: str, request: PredictRequest, deadline: float = inf) -> Decisions:
        """Decisions for the rows of ``request``, in order; raises what its own rows deserve."""
        future: asyncio.Future[Decisions] = asyncio.get_running_loop().create_future()

        def done(result: Decisions | Exception) -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit((tenant, request), done, deadline)
        try:
            return await future
        except asyncio.CancelledError:
            self._waiting = [item for item in self._waiting if item.done is not done]
            raise

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        start = 0
        while start < len(waiting):
            end, num_rows = start, 0
            while end < len(waiting) and num_rows < MAX_ROWS:
                num_rows += len(waiting[end].job[1].instances)
                end += 1
            self._answer(waiting[start:end])
            start = end

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        now = self._clock()
        late = [item for item in batch if item.deadline <= now]
        for item in late:
            item.done(_late())
        self._decide([item for item in batch if item.deadline > now] if late else batch)
        self.turn_s += _MEMORY * (self._clock() - batch[0].since - self.turn_s)

    def _decide(self, batch: Sequence[_Waiting]) -> None:
        try:
            decided = self._decide_all([item.job for item in batch]) if batch else []
        except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, or waits for ever
            if len(batch) == 1:
                batch[0].done(error)
            else:
                for item in batch:
                    self._decide([item])
        else:
            for item, decisions in zip(batch, decided, strict=True):
                item.done(decisions)


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("The request cannot be answered within its X-Request-Timeout-Ms: nothing was decided.")
