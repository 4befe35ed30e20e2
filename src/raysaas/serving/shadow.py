"""The shadow version: scores what the champion answered, after the answer, and only when there is time for it."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any

from raysaas.errors import RaysaasError
from raysaas.serving.versions import Version
from raysaas.stores.journal import Journal

_WAITING = 64


class Shadow:
    """One thread and a short queue; rows that find the queue full are skipped and counted in ``num_skipped``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pool = ThreadPoolExecutor(1, "shadow")
        self._room = BoundedSemaphore(_WAITING)
        self.num_skipped = 0

    def score(self, version: Version, decisions: Sequence[Mapping[str, Any]]) -> None:
        """Queue the rows of one answered request; ``decisions`` are their journal records."""
        if self._room.acquire(blocking=False):
            self._pool.submit(self._run, version, decisions)
        else:
            self.num_skipped += len(decisions)

    def _run(self, version: Version, decisions: Sequence[Mapping[str, Any]]) -> None:
        try:
            columns = version.bundle.encoder.rows([d["inputs"] for d in decisions], "ignore")
            prediction = version.bundle.predict(columns)
            labels: Sequence[str | None] = prediction.label or [None] * len(decisions)
            self._journal.append(
                [
                    {key: d[key] for key in ("use_case", "tenant", "time")}
                    | {"decision_id": d["id"], "version": version.number, "score": score, "label": label}
                    for d, score, label in zip(decisions, prediction.score.tolist(), labels, strict=True)
                ]
            )
        except RaysaasError:
            self.num_skipped += len(decisions)
        finally:
            self._room.release()

    def close(self) -> None:
        """Finish what is queued."""
        self._pool.shutdown()
