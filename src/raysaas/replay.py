"""Replaying rows against a served use case, as several tenants would, and planting a change into them."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.client import Client
from raysaas.errors import RaysaasError
from raysaas.use_case import Change

BATCH = 20
_ROW_COLUMNS = ("row_id", "tenant", "entity", "event_time", "known_at", "split", "label")


@dataclass(slots=True)
class Tally:
    """What a replay saw: counts, latencies of single-row requests, and one decision id to ask about."""

    decisions: int = 0
    failed: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    last_decision: str | None = None
    errors: Counter[str] = field(default_factory=Counter)

    def percentile(self, q: float) -> float | None:
        """Latency in milliseconds at percentile ``q``; None without single requests."""
        return round(float(np.percentile(self.latencies_ms, q)), 2) if self.latencies_ms else None


def plant(rows: pa.Table, change: Change) -> pa.Table:
    """Apply a planted change: rename categories, scale and shift numbers; other columns stay as they are."""
    for name, names in change.rename.items():
        values = [names.get(value, value) for value in rows[name].to_pylist()]
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, pa.string()))
    for name in {*change.scale, *change.shift}:
        moved = pc.add(pc.multiply(rows[name], change.scale.get(name, 1.0)), change.shift.get(name, 0.0))
        kind = rows.schema.field(name).type
        moved = pc.round(moved).cast(kind) if pa.types.is_integer(kind) else moved.cast(kind)
        rows = rows.set_column(rows.column_names.index(name), name, moved)
    return rows


class Replayer:
    """Sends rows of a training table as requests, each tenant with its own key, and outcomes after them."""

    def __init__(self, url: str, use_case: str, keys: Mapping[str, str]) -> None:
        self.use_case = use_case
        self._clients = {tenant: Client(url, key) for tenant, key in keys.items()}
        self.tally = Tally()

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            client.__exit__(None, None, None)

    def rows(self, rows: pa.Table, *, single: int = 0, outcomes: bool = True) -> None:
        """Send each row as an instance, the first ``single`` ones alone; with ``outcomes`` tell the labels too."""
        instances = rows.drop_columns([n for n in _ROW_COLUMNS if n in rows.column_names]).to_pylist()
        labels = [str(label) for label in rows["label"].to_pylist()]
        sent = list(zip(self._tenants(rows), rows["entity"].to_pylist(), instances, labels, strict=True))
        for one in sent[:single]:
            self._send([one], outcomes)
        for batch in _by_tenant(sent[single:]):
            self._send(batch, outcomes)

    def _tenants(self, rows: pa.Table) -> list[str]:
        """The row's own tenant where it has a key; single-tenant data is spread over the tenants there are."""
        names = list(self._clients)
        return [
            tenant if tenant in self._clients else names[i % len(names)]
            for i, tenant in enumerate(rows["tenant"].to_pylist())
        ]

    def _send(self, batch: Sequence[tuple[str, str, dict[str, Any], str]], outcomes: bool) -> None:
        started = time.perf_counter()
        try:
            answer = self._clients[batch[0][0]].predict(self.use_case, instances=[one[2] for one in batch])
        except RaysaasError as error:
            self._failed(len(batch), error)
            return
        self._answered(answer["decisions"], started)
        if outcomes:
            ids = [decision["decision_id"] for decision in answer["decisions"]]
            told = [{"decision_id": i, "label": one[3]} for i, one in zip(ids, batch, strict=True)]
            self._clients[batch[0][0]].feedback(self.use_case, told)

    def entities(self, entities: Sequence[tuple[str, str]]) -> None:
        """Ask for (tenant, entity) pairs by id; their features are read online."""
        for tenant in dict.fromkeys(tenant for tenant, _ in entities):
            for batch in _chunks([entity for owner, entity in entities if owner == tenant]):
                started = time.perf_counter()
                try:
                    answer = self._clients[tenant].predict(self.use_case, entities=batch)
                except RaysaasError as error:
                    self._failed(len(batch), error)
                else:
                    self._answered(answer["decisions"], started)

    def _answered(self, decisions: list[dict[str, Any]], started: float) -> None:
        if len(decisions) == 1:
            self.tally.latencies_ms.append((time.perf_counter() - started) * 1000)
        self.tally.decisions += len(decisions)
        self.tally.last_decision = decisions[-1]["decision_id"]

    def _failed(self, count: int, error: RaysaasError) -> None:
        self.tally.failed += count
        self.tally.errors[str(error)] += count

    @contextmanager
    def steadily(self, rows: pa.Table, pause_s: float = 0.05) -> Iterator[Tally]:
        """Keep sending single rows while the block runs; the tally tells whether any request failed."""
        stop = threading.Event()
        instances = rows.drop_columns([n for n in _ROW_COLUMNS if n in rows.column_names]).to_pylist()
        sent = list(zip(self._tenants(rows), rows["entity"].to_pylist(), instances, [""] * rows.num_rows, strict=True))

        def send() -> None:
            i = 0
            while not stop.wait(pause_s):
                self._send([sent[i % len(sent)]], outcomes=False)
                i += 1

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        try:
            yield self.tally
        finally:
            stop.set()
            thread.join(timeout=30)


def _by_tenant(
    sent: Sequence[tuple[str, str, dict[str, Any], str]],
) -> Iterator[list[tuple[str, str, dict[str, Any], str]]]:
    """Batches in order of arrival, each of one tenant, as its own client would send them."""
    waiting: dict[str, list[tuple[str, str, dict[str, Any], str]]] = {}
    for one in sent:
        group = waiting.setdefault(one[0], [])
        group.append(one)
        if len(group) == BATCH:
            yield waiting.pop(one[0])
    yield from (group for group in waiting.values() if group)


def _chunks(values: list[str]) -> list[list[str]]:
    return [values[i : i + BATCH] for i in range(0, len(values), BATCH)]
