"""The shadow version: scores what the champion answered, after the answer, and only when there is time for it.

Its thread shares the interpreter with the requests, so what counts is how long and how often it holds it: rows are
collected for a moment, scored a few at a time in one vectorised call, and followed by a pause.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raysaas.serving.versions import Version
from raysaas.stores.journal import Journal

Rows = Sequence[Mapping[str, Any]]

_MAX_WAITING = 4096  # rows; those that find no room are skipped
_AT_ONCE = 16  # rows: a fraction of a millisecond
_COLLECT_S = 0.02
_REST = 1.0  # pause after a piece of work, as a multiple of it


class Shadow:
    """One thread and a bounded queue; rows that find it full are skipped and counted in ``num_skipped``."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._waiting: deque[tuple[Version, Rows]] = deque()
        self._num_in = self._num_out = 0  # each written by one thread only
        self._work, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self.num_skipped = 0

    def score(self, version: Version, decisions: Rows) -> None:
        """Queue the rows of answered requests; ``decisions`` are their journal records."""
        if self._num_in - self._num_out + len(decisions) > _MAX_WAITING:
            self.num_skipped += len(decisions)
            return
        self._num_in += len(decisions)
        self._waiting.append((version, decisions))
        if not self._work.is_set():
            self._work.set()
            if self._thread.ident is None:
                self._thread.start()

    def close(self) -> None:
        """Finish what is queued."""
        self._stop.set()
        self._work.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while self._waiting or not self._stop.is_set():
            self._work.wait()
            self._stop.wait(_COLLECT_S)
            self._work.clear()
            for version, rows in self._pieces():
                started = time.perf_counter()
                self._score(version, rows)
                self._num_out += len(rows)
                self._stop.wait(_REST * (time.perf_counter() - started))

    def _pieces(self) -> Iterator[tuple[Version, Rows]]:
        """What is queued, in pieces of rows of one version."""
        rows: list[Mapping[str, Any]] = []
        while self._waiting:
            version, decisions = self._waiting.popleft()
            rows += decisions
            if len(rows) < _AT_ONCE and self._waiting and self._waiting[0][0] is version:
                continue
            for start in range(0, len(rows), _AT_ONCE):
                yield version, rows[start : start + _AT_ONCE]
            rows = []

    def _score(self, version: Version, decisions: Rows) -> None:
        try:
            columns = version.bundle.encoder.rows([_as_sent(d["inputs"]) for d in decisions], "ignore")
            prediction = version.bundle.predict(columns)
            labels: Sequence[str | None] = prediction.label or [None] * len(decisions)
            self._journal.append(
                [
                    {key: d[key] for key in ("use_case", "tenant", "time")}
                    | {"decision_id": d["id"], "version": version.number, "score": score, "label": label}
                    for d, score, label in zip(decisions, prediction.score.tolist(), labels, strict=True)
                ]
            )
        except Exception:  # noqa: BLE001 - a shadow that fails must be seen in the count and nowhere else
            self.num_skipped += len(decisions)


def _as_sent(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs as the encoder takes them: a missing number is NaN in a record that was not written yet."""
    return {name: None if value != value else value for name, value in inputs.items()}
