"""What an erasure leaves: model versions that had learnt from the rows, and places that still hold some."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysaas.errors import InputError, NotFound
from raysaas.ingest.formats import filesystem
from raysaas.ingest.sources import Found, find
from raysaas.ingest.uris import told
from raysaas.records import ModelVersion
from raysaas.settings import Settings
from raysaas.stores.receipts import folder
from raysaas.stores.registry import Registry
from raysaas.stores.subject import Subject
from raysaas.stores.survey import survey
from raysaas.stores.tables import Tables
from raysaas.stores.traces import traces

_CHUNK, _OVERLAP = 16 << 20, 4096


def affected(registry: Registry, tables: Tables, subject: Subject, sources: list[str]) -> list[dict[str, Any]]:
    """The versions whose training set, or the sources it was made of, held rows of ``subject``; with their counts."""
    name = subject.use_case
    names = [f"training.{name}", *(f"raw.{name}__{source}" for source in sources)]
    surveys = {table: survey(tables, table, subject.rows()) for table in names}
    champion = registry.champion(name)
    found = []
    for version in sorted(registry.versions(name), key=lambda one: one.version):
        pins = {**_sources(registry, version), f"training.{name}": version.training_snapshot}
        held = {table: surveys[table].held(pins[table]) for table in names if table in pins}
        rows = {table: count for table, count in held.items() if count}
        if rows:
            is_champion = champion is not None and champion.version == version.version
            found.append({"version": version.version, "champion": is_champion, "rows": rows, "exact_rebuild": False})
    return found


def _sources(registry: Registry, version: ModelVersion) -> dict[str, int]:
    try:
        return dict(registry.training_set(version.use_case, version.version).snapshots)
    except NotFound:
        return {}


def remains(settings: Settings, tables: Tables, subject: Subject, sources: list[str]) -> list[str]:
    """One sentence for each place that still holds rows of ``subject``, or was not looked into; without its name."""
    name, every = subject.use_case, settings.use_case.sources
    told_of = []
    for source in every:
        held = survey(tables, f"raw.{name}__{source}", subject.rows())
        count = held.held(tables.current(f"raw.{name}__{source}") or 0)
        if count:
            told_of.append(
                f"raw.{name}__{source} holds {count} rows, of which the next materialize makes features again"
            )
    for source in sources:
        told_of += _outside(settings, subject, source)
    home = Path(settings.storage.home)
    for path in traces(home, subject.word):
        if folder(home) not in path.parents:
            told_of.append(f"{path} names it, or another tenant's of that name")
    others = {table.partition(".")[2].partition("__")[0] for table in tables.names() if table.startswith("raw.")} - {
        name
    }
    if others:
        told_of.append(f"other use cases were not looked into: {', '.join(sorted(others))}")
    return told_of


def _outside(settings: Settings, subject: Subject, source: str) -> list[str]:
    """Source files: they are their owner's to delete."""
    spec = settings.use_case.sources[source]
    if spec.sql:
        return [f"the database of source {source} was not looked into: its rows are its owner's to delete"]
    try:
        files = find(spec.path, settings.data_dir, missing_ok=True) if spec.path else []
    except InputError:
        return []
    return [
        f"the source file {told(file.uri)} holds it: it is its owner's to delete"
        for file in files
        if _holds(file, subject)
    ]


def _holds(file: Found, subject: Subject) -> bool:
    """Whether the name stands in a file: as text, or as a value of a Parquet file."""
    fs, path = filesystem(file.uri)
    with fs.open_input_file(path) as stream:
        if stream.read(4) != b"PAR1":
            return _in_text(stream, re.compile(subject.word.pattern.encode()))
    names = [field.name for field in pq.read_schema(path, filesystem=fs) if pa.types.is_string(field.type)]
    table = pq.read_table(path, columns=names, filesystem=fs)
    return any(pc.any(pc.equal(column, subject.name)).as_py() for column in table.itercolumns())


def _in_text(stream: pa.NativeFile, word: re.Pattern[bytes]) -> bool:
    stream.seek(0)
    before = b""
    while chunk := stream.read(_CHUNK):
        # A name may begin in one chunk and end in the next.
        if word.search(before + chunk):
            return True
        before = chunk[-_OVERLAP:]
    return False
