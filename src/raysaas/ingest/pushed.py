"""Events that came over HTTP, from the journal's segments to one JSON Lines extract.

A line is what the door wrote: the event's fields, flat, and under names that no sender can use the tenant of the key
and the time of receipt, which become the row's ``tenant`` and ``known_at`` where the contract names no column of its
own. A segment is known by its stem, which the commit names; after it the segment moves to ``shipped/``.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from raysaas.ingest.formats import SourceFile
from raysaas.ingest.inbox import Extract, Inbox
from raysaas.stores import journal
from raysaas.use_case import Format

SEGMENTS = "raysaas.segments"
_NAME = "events.jsonl"


@dataclass(frozen=True, slots=True)
class Events:
    """The events of one source that wait in the journal below ``root``."""

    root: str
    use_case: str
    source: str
    inbox: Inbox

    def extract(self, done: set[str]) -> Extract:
        """Take the complete segments that no commit names; ``done`` are the stems of those that one does."""
        found = self.inbox.waiting()
        if found is not None and not done.intersection(_stems(found)):
            return found
        self.inbox.clear()
        segments = journal.complete(self.root, self.use_case, journal.events_kind(self.source))
        journal.retire(self.root, self.use_case, [path.stem for path in segments if path.stem in done])
        fresh = [path for path in segments if path.stem not in done]
        return self._write(fresh) if fresh else Extract("")

    def clean(self, extract: Extract) -> None:
        """Remove the committed ``extract`` and move its segments away."""
        journal.retire(self.root, self.use_case, _stems(extract))
        self.inbox.clear()

    def _write(self, segments: list[Path]) -> Extract:
        names: dict[str, None] = {}
        num_bytes = 0
        with self.inbox.sink(_NAME) as sink:
            for line in _lines(segments, names):
                num_bytes += sink.write(line + b"\n")
        stems = ",".join(path.stem for path in segments)
        file = SourceFile(
            f"events of {self.source}, segments {segments[0].stem} to {segments[-1].stem}", Format.jsonl,
            hashlib.sha256(stems.encode()).hexdigest(), num_bytes, header=tuple(names),
            paths=tuple((name,) for name in names), place=self.inbox.place(_NAME), pushed=True,
        )  # fmt: skip
        return self.inbox.keep(Extract("", (file,) if num_bytes else (), {SEGMENTS: stems}))


def _stems(extract: Extract) -> list[str]:
    return [stem for stem in extract.properties.get(SEGMENTS, "").split(",") if stem]


def _lines(segments: Iterable[Path], names: dict[str, None]) -> Iterator[bytes]:
    """All lines; ``names`` gathers the fields of all of them, as a rare one may come late."""
    for segment in segments:
        for line in journal.lines(segment):
            names |= dict.fromkeys(orjson.loads(line))
            yield line


def committed(properties: Iterable[dict[str, str]]) -> set[str]:
    """Stems that commits with these properties name."""
    return {stem for found in properties for stem in found.get(SEGMENTS, "").split(",") if stem}
