"""How each arm of a comparison does in this replica: rows, errors, latency; a line a second for the referee."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from raysaas.errors import RaysaasError
from raysaas.serving.split import CHAMPION
from raysaas.stores.journal import Journal

_PER_DOUBLING = 4  # buckets: a latency is known to 19 %


@dataclass(slots=True)
class _Counts:
    num: int = 0
    errors: int = 0
    latency: dict[int, int] = field(default_factory=dict)


class ArmStats:
    """Counts in memory on the request path; :meth:`flush` journals them."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._counts: dict[tuple[str, int], _Counts] = {}

    @contextmanager
    def measure(self, arm: str, version: int, num: int) -> Iterator[None]:
        """Time the scoring of ``num`` rows. What the champion refuses is the request's own fault and no error."""
        counts, started = self._counts.setdefault((arm, version), _Counts()), time.perf_counter()
        try:
            yield
        except Exception as error:
            if arm != CHAMPION or not isinstance(error, RaysaasError):
                counts.num, counts.errors = counts.num + num, counts.errors + num
            raise
        bucket = math.ceil(_PER_DOUBLING * math.log2(max(1000 * (time.perf_counter() - started), 1e-3)))
        counts.num += num
        counts.latency[bucket] = counts.latency.get(bucket, 0) + 1

    def flush(self, now: datetime) -> None:
        """Journal what was counted since the last flush, one line per arm."""
        counts, self._counts = self._counts, {}
        lines = [
            {
                "time": now.isoformat(),
                "arm": arm,
                "version": version,
                "num": one.num,
                "errors": one.errors,
                "latency": {f"{2 ** (bucket / _PER_DOUBLING):.4g}": seen for bucket, seen in dict(one.latency).items()},
            }
            for (arm, version), one in counts.items()
            if one.num
        ]
        if lines:
            self.journal.append(lines)
