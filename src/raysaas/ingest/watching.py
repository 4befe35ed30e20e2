"""Sources that are watched: ingest goes round until the job is stopped, and takes what is new each time.

A file is taken when it is finished: its size and time stood still since the last look, or it was last written two looks
ago. A writer that may pause for longer writes under another name (one that begins with a dot, or ends in ``.tmp`` or
``.part``) and renames the file when it is complete. What is wrong with a file is said once; the others go in, and a
file that is written again is tried again.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from raysaas.errors import ConfigError, Terminal, Transient
from raysaas.ingest.compacting import ROUNDS, compact_source
from raysaas.ingest.ordering import reading_order
from raysaas.ingest.pipeline import ingest
from raysaas.ingest.sources import Found, find
from raysaas.records import Snapshot
from raysaas.settings import Settings
from raysaas.stores.tables import Tables

_LOG = logging.getLogger(__name__)


class Finished:
    """Which files of a folder nobody writes any more, told from look to look."""

    def __init__(self, every_s: float) -> None:
        self._age = timedelta(seconds=2 * every_s)
        self._before: set[Found] = set()

    def among(self, found: Iterable[Found], now: datetime) -> list[Found]:
        """Those of ``found`` that are as they were at the last look, or older than two looks."""
        there = sorted(found, key=lambda one: one.uri)
        before, self._before = self._before, set(there)
        return [one for one in there if one in before or (one.modified and now - one.modified >= self._age)]


class Watch:
    """One source from look to look: files that are done with, good or bad, and what was said of them."""

    def __init__(self, settings: Settings, name: str, tables: Tables, every_s: float) -> None:
        self._settings, self._name, self._tables = settings, name, tables
        self._source = settings.use_case.sources[name]
        self._finished = Finished(every_s)
        self._done: set[Found] = set()
        self._said: set[str] = set()
        self._saying: set[str] = set()

    def look(self, now: datetime) -> list[Snapshot]:
        """Take what is new; returns the snapshots that came of it. Raises ConfigError, which no waiting mends."""
        self._said, self._saying = self._saying, set()
        found = self._found()
        self._done &= found
        fresh = [one for one in self._finished.among(found, now) if one not in self._done]
        moving = self._source.sql is not None or self._source.events
        if not fresh and not moving:
            return []
        try:
            return self._take(fresh, now)
        except ConfigError:
            raise
        except Transient as error:
            return self._say(str(error))
        except Terminal as error:
            if not fresh:
                return self._say(str(error))
        each = [[one] for one in fresh] + ([[]] if moving else [])
        return [snapshot for files in each for snapshot in self._take_alone(files, now)]

    def _found(self) -> set[Found]:
        path = self._source.path
        return set(find(path, self._settings.data_dir, missing_ok=True)) if path else set()

    def _take(self, files: list[Found], now: datetime) -> list[Snapshot]:
        snapshot = ingest(self._settings, self._name, self._tables, now, files)
        self._done.update(files)
        for warning in snapshot.warnings:
            self._say(warning)
        return [snapshot] if snapshot.num_read else []

    def _take_alone(self, files: list[Found], now: datetime) -> list[Snapshot]:
        """One file, so that a bad one keeps no other back; one that is gone or was written again is no mistake."""
        try:
            return self._take(files, now)
        except ConfigError:
            raise
        except Transient as error:
            return self._say(str(error))
        except Terminal as error:
            if files and files[0] not in self._found():
                return []
            self._done.update(files)
            return self._say(str(error))

    def _say(self, sentence: str) -> list[Snapshot]:
        """Once, until it was not so for a look."""
        if sentence not in self._said | self._saying:
            _LOG.warning("%s: %s", self._name, sentence)
        self._saying.add(sentence)
        return []


def compact_when_due(settings: Settings, tables: Tables, rounds: Counter[str], now: datetime) -> None:
    """Compact the sources that took something for ``ROUNDS`` rounds; where that cannot be now, a later round does."""
    if settings.ingest.keep_hours is None:
        return
    for name in [name for name, count in rounds.items() if count >= ROUNDS]:
        try:
            _LOG.info("Compacted %s: %s.", name, compact_source(settings, name, tables, now))
            del rounds[name]
        except Transient as error:
            _LOG.warning("%s: %s", name, error)


def watch(
    settings: Settings,
    tables: Tables,
    each: Callable[[Mapping[str, list[Snapshot]]], object] = lambda taken: None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Go round the sources every ``ingest.every_s`` seconds until ``stop()`` or until the process is interrupted.

    ``each`` is told of every round that took something: the snapshots by source. An interrupt may come at any moment:
    whatever a round has not committed, the next job finds as new.
    """
    every_s = settings.ingest.every_s or 0.0
    sources = {name: Watch(settings, name, tables, every_s) for name in reading_order(settings.use_case.sources)}
    rounds: Counter[str] = Counter()
    while not stop():
        started = time.monotonic()
        now = datetime.now(UTC)
        taken = {name: snapshots for name, source in sources.items() if (snapshots := source.look(now))}
        if taken:
            counts = [f"{sum(s.num_read for s in snapshots)} rows of {name}" for name, snapshots in taken.items()]
            _LOG.info("Took %s.", ", ".join(counts))
            each(taken)
            rounds.update(taken.keys())
            compact_when_due(settings, tables, rounds, now)
        time.sleep(max(0.0, every_s - (time.monotonic() - started)))
