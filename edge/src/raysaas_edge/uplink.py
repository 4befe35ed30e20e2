"""Outcomes to the cluster: at least once, oldest first, patient with a lost network. Raw rows are never sent.

Each batch goes to ``POST /{use_case}/feedback``. The site's counters ride along in the ``Raysaas-Site`` header.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import httpx

from raysaas.errors import AccessDenied, Terminal, Unavailable
from raysaas_edge.buffer import Buffer, Queued

# The cluster did not take the batch now, but may later.
_LATER = {408, 425, 429, 500, 502, 503, 504}
# Something in the batch is wrong, or it is too large: halves find out which.
_SPLIT = {400, 413, 422}


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds to wait before attempt n: exponential with full jitter (Brooker, AWS Architecture Blog, 2015)."""

    first_s: float = 0.5
    most_s: float = 60.0
    attempts: int = 4

    def delay(self, attempt: int, asked_s: float = 0.0) -> float:
        """Between half of and the whole exponential step, and no less than the server asked for, up to ``most_s``."""
        step = min(self.most_s, self.first_s * 2.0**attempt)
        return min(self.most_s, max(asked_s, step * random.uniform(0.5, 1.0)))


class Uplink:
    """Sends what the buffer has queued to one use case of one cluster.

    ``sleep`` waits between attempts. Raises Unavailable when the cluster stays away (the queue stays whole),
    AccessDenied for a wrong key, Terminal for an answer that no retry changes.
    """

    def __init__(
        self,
        url: str,
        use_case: str,
        key: str,
        site: str,
        *,
        batch: int = 500,
        timeout_s: float = 10.0,
        backoff: Backoff | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url = f"{url.rstrip('/')}/{quote(use_case)}/feedback"
        self._client = httpx.Client(timeout=timeout_s, headers={"Authorization": f"Bearer {key}"})
        self._site, self._batch, self._backoff, self._sleep = site, batch, backoff or Backoff(), sleep

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def flush(self, buffer: Buffer) -> int:
        """Send everything that is queued; returns how many outcomes the cluster confirmed."""
        sent = 0
        while batch := buffer.queued(self._batch):
            sent += self._deliver(buffer, batch)
        return sent

    def _deliver(self, buffer: Buffer, batch: list[Queued]) -> int:
        status = self._post(batch, buffer.counts())
        if status < 300:
            buffer.mark(batch, "sent")
            return len(batch)
        if len(batch) == 1:
            buffer.mark(batch, "refused")
            return 0
        middle = len(batch) // 2
        return self._deliver(buffer, batch[:middle]) + self._deliver(buffer, batch[middle:])

    def _post(self, batch: list[Queued], counts: dict[str, int]) -> int:
        """Status of the answer: a success, or one that asks for smaller batches."""
        outcomes = [{"decision_id": o.decision_id, "label": o.label, "observed_at": o.observed_at} for o in batch]
        header = {
            "Raysaas-Site": f"{quote(self._site)}; " + "; ".join(f"{name}={value}" for name, value in counts.items())
        }
        problem = ""
        for attempt in range(self._backoff.attempts):
            asked_s = 0.0
            try:
                answer = self._client.post(self._url, json={"outcomes": outcomes}, headers=header)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status_code not in _LATER:
                    return self._judge(answer)
                problem, asked_s = f"HTTP {answer.status_code}", _retry_after(answer)
            if attempt + 1 < self._backoff.attempts:
                self._sleep(self._backoff.delay(attempt, asked_s))
        raise Unavailable(
            f"{self._url} took no outcomes after {self._backoff.attempts} attempts ({problem}); "
            f"{counts['outcomes_queued']} stay queued."
        )

    def _judge(self, answer: httpx.Response) -> int:
        code = answer.status_code
        if code in {401, 403}:
            raise AccessDenied(f"{self._url} answered {code}: the key is not accepted; set key_file to a valid one.")
        if code >= 300 and code not in _SPLIT:
            raise Terminal(f"{self._url} answered {code}: {answer.text[:200]} Check `cluster` and `use_case`.")
        return code


def _retry_after(answer: httpx.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0
