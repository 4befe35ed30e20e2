"""What a run of ingest takes in, and what its commit must remember so that nothing is taken twice or left out.

Files are known by their digests, segments of events by their names, rows of a database by the offset: all of it stands
in the properties of the very snapshot that holds the rows. So a run can be killed anywhere; the next one looks there.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raysaas.errors import Terminal
from raysaas.faults import reached
from raysaas.ingest.database import OFFSET, Database
from raysaas.ingest.formats import SourceFile
from raysaas.ingest.inbox import Extract, Inbox
from raysaas.ingest.pushed import Events, committed
from raysaas.ingest.sources import Found, describe_all, find
from raysaas.settings import Settings
from raysaas.stores.tables import Tables
from raysaas.use_case import Source


@dataclass(frozen=True, slots=True)
class Intake:
    """``files`` to read; ``properties`` go into the snapshot of the same commit (offsets, for example)."""

    files: list[SourceFile]
    properties: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@contextmanager
def intake(
    settings: Settings, name: str, tables: Tables, raw: str, found: Iterable[Found] | None = None
) -> Iterator[Intake]:
    """Find what source ``name`` offers now, for as long as it is being committed to table ``raw``.

    Afterwards what was taken is put away: extracts are removed, segments moved. When the commit did not come about,
    they stay as they are for the next run, unless that has to read the database anew. ``found`` are the files to take
    instead of all that the source names. Raises InputError, ConfigError and Unavailable as the kinds of sources do.
    """
    source = settings.use_case.sources[name]
    files = _files(source, settings, found)
    reached("ingest", "discovered")
    properties = [dict(snapshot["properties"]) for snapshot in tables.history(raw)]
    database, events = _database(settings, name), _events(settings, name)
    before = next((p[OFFSET] for p in reversed(properties) if OFFSET in p), None)
    rows = database.extract(before) if database else Extract("")
    pushed = events.extract(committed(properties)) if events else Extract("")
    reached("ingest", "extracted")
    try:
        taken = {**rows.properties, **pushed.properties}
        yield Intake([*files, *rows.files, *pushed.files], taken, rows.warnings)
    except Terminal:
        if database:
            database.clear()  # what is wrong with its rows is put right over there
        raise
    if database:
        database.clean(rows.properties.get(OFFSET, before))
    if events:
        events.clean(pushed)
    reached("ingest", "cleaned")


def _files(source: Source, settings: Settings, found: Iterable[Found] | None) -> list[SourceFile]:
    if found is None:
        if source.sql or (source.events and not source.path):
            return []
        found = find(source.path, settings.data_dir, missing_ok=source.events)
    return describe_all(found, source.format)


def _database(settings: Settings, name: str) -> Database | None:
    sql = settings.use_case.sources[name].sql
    where = f"use_case.sources.{name}.sql"
    return Database(sql, where, _inbox(settings, name, "sql"), _inbox(settings, name, "offset")) if sql else None


def _events(settings: Settings, name: str) -> Events | None:
    if not settings.use_case.sources[name].events:
        return None
    return Events(settings.storage.journal or "", settings.use_case.name, name, _inbox(settings, name, "events"))


def _inbox(settings: Settings, name: str, kind: str) -> Inbox:
    return Inbox(settings.storage.warehouse or "", f"{settings.use_case.name}__{name}", kind)
