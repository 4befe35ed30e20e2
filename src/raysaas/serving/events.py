"""Events: rows of a source as they happen, journaled before they are acknowledged; ingest takes them from there.

The door checks that an event is an object of the source's fields and that it is the sender's own; whether its values
keep the contract is judged when they are ingested, and what is refused goes to quarantine. An event counts as known
from the moment it came in. Sent twice, after a lost answer, it is one row where the source declares ``unique`` columns.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import orjson

from raysaas.errors import Forbidden, InputError
from raysaas.serving.protocol import kind_of, load_object, parse_list
from raysaas.serving.spec import EventSource
from raysaas.stores.journal import KNOWN_AT, TENANT, Journal, events_kind
from raysaas.tenancy.keys import Access
from raysaas.use_case import Column, ColumnType

_SEGMENT_AGE_S = 1.0  # features follow events within seconds, so a segment must not wait longer than that
_MAX_DEPTH = 16
_EXAMPLES: Mapping[ColumnType, Any] = {
    ColumnType.number: 1.5, ColumnType.integer: 1, ColumnType.boolean: True, ColumnType.category: "a",
    ColumnType.time: "2026-01-31T12:00:00Z", ColumnType.text: "abc",
}  # fmt: skip
_JSON_TYPES = {ColumnType.number: "number", ColumnType.integer: "integer", ColumnType.boolean: "boolean"}


class Events:
    """The event sources of one replica, each with a journal of its own."""

    def __init__(
        self,
        sources: Mapping[str, EventSource],
        journal: Callable[[str, float], Journal],
        max_events: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sources, self._max, self._clock = sources, max_events, clock
        self._journals = {name: journal(events_kind(name), _SEGMENT_AGE_S) for name in sources}

    @property
    def journals(self) -> list[Journal]:
        """The journals, to be rotated and closed."""
        return list(self._journals.values())

    def routes(self) -> Iterator[tuple[str, Callable[[Access, bytes], Awaitable[bytes]]]]:
        """For each source the function that takes its events."""
        for name in self._sources:
            yield name, partial(self.take, name)

    def unknown(self) -> str:
        """What to tell who sends events of another source."""
        if not self._sources:
            return "No source here takes events: one does with `events: true` in its conf."
        return f"This source takes no events: those that do are {', '.join(self._sources)}."

    async def take(self, name: str, access: Access, body: bytes) -> bytes:
        """Answer ``POST /events/{source}``; every event is in the journal when this returns.

        Raises Terminal, InputError (not events of this source), Forbidden (of another tenant), Unavailable (the journal
        cannot be written; nothing was kept).
        """
        moment = datetime.fromtimestamp(self._clock(), UTC).isoformat()
        events = parse_events(body, self._sources[name], access.tenant, self._max)
        self._journals[name].append([event | {TENANT: access.tenant, KNOWN_AT: moment} for event in events])
        return orjson.dumps({"accepted": len(events)})


def parse_events(body: bytes, source: EventSource, tenant: str, max_events: int) -> list[dict[str, Any]]:
    """Check the body of ``POST /events/{source}``; returns flat events, the tenant filled in."""
    parsed = load_object(body)
    events = parse_list(parsed.pop("events", None), "events")
    if parsed:
        raise InputError(f"Unknown field {next(iter(parsed))!r}: expected 'events'.")
    if not 1 <= len(events) <= max_events:
        raise InputError(f"The request has {len(events)} events: expected 1 to {max_events}.")
    return [_event(event, f"events[{index}]", source, tenant) for index, event in enumerate(events)]


def _event(event: Any, where: str, source: EventSource, tenant: str) -> dict[str, Any]:
    if type(event) is not dict:
        raise InputError(f"{where} must be an object of the source's fields, not {kind_of(event)}.")
    flat = dict(_leaves(event, where))
    for name in flat:
        if not {name, _plain(name)} & source.columns.keys() and _plain(name) not in source.others:
            raise InputError(f"{where} has the unknown field {name!r}: expected {', '.join(source.columns)}.")
    if source.tenant is not None:
        if str(flat.get(source.tenant) or tenant) != tenant:
            raise Forbidden(f"{where}.{source.tenant} is another tenant's: this key sends events of its own tenant.")
        flat[source.tenant] = tenant
    given = {spelling for name, value in flat.items() if value is not None for spelling in (name, _plain(name))}
    missing = [name for name, column in source.columns.items() if column.required and name not in given]
    if missing:
        raise InputError(f"{where} has no {missing[0]!r}, which is required.")
    return flat


def _plain(name: str) -> str:
    """A field's name as a column of the contract may spell it: ``user.age`` is ``user_age``."""
    return re.sub(r"\W+", "_", name)


def _leaves(fields: Mapping[str, Any], where: str, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, Any]]:
    """Fields of objects inside as ``user.age``, as those of files are."""
    for name, value in fields.items():
        if type(value) is dict and depth < _MAX_DEPTH:
            yield from _leaves(value, where, f"{prefix}{name}.", depth + 1)
        elif type(value) in (dict, list):
            raise InputError(f"{where}.{prefix}{name} must be a single value, not {kind_of(value)}.")
        else:
            yield prefix + name, value


def event_schema(source: EventSource, max_events: int) -> dict[str, Any]:
    """The request of ``POST /events/{source}`` for the OpenAPI document, with an example that works."""
    required = [name for name, column in source.columns.items() if column.required and name != source.tenant]
    item = {
        "type": "object",
        "properties": {name: _property(column) for name, column in source.columns.items()},
        "required": required,
    }
    events = {"type": "array", "items": item, "minItems": 1, "maxItems": max_events}
    example = {name: example_of(column) for name, column in source.columns.items() if name != source.tenant}
    return {
        "schema": {"type": "object", "properties": {"events": events}, "required": ["events"]},
        "examples": {"event": {"summary": "One event", "value": {"events": [example]}}},
    }


def _property(column: Column) -> dict[str, Any]:
    kind = _JSON_TYPES.get(column.type, "string")
    described: dict[str, Any] = {"type": kind if column.required else [kind, "null"]}
    described |= {"format": "date-time"} if column.type is ColumnType.time else {}
    return described | ({"description": f"One of {', '.join(column.values)}."} if column.values else {})


def example_of(column: Column) -> Any:
    """A value that keeps the column's contract, its pattern aside."""
    if column.values:
        first = column.values[0]
        return float(first) if column.type is ColumnType.number else first
    if column.type not in (ColumnType.number, ColumnType.integer):
        return _EXAMPLES[column.type]
    low, high = column.min, column.max
    value = low if low is not None else min(1.0, high) if high is not None else _EXAMPLES[column.type]
    return int(value) if column.type is ColumnType.integer else value
