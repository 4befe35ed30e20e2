"""What a source offers in, one Iceberg commit out: the `ingest` step on Ray Data.

Tasks read parts of files (extracts of databases and events are files too), check them and stage accepted and refused
rows as Parquet under the warehouse; where a contract has rules across rows, checked rows wait as Arrow files until the
driver has settled those. The driver judges the counts and adopts the staged files with ``add_files``: one atomic commit
to ``raw.*`` whatever the size of the batch. Why not Ray Data's ``write_iceberg``: it commits when the last block is
written, before anyone knows whether the error budget holds or a key came twice. The source is read once, tasks' memory
stays flat, and a kill at any moment leaves files that no snapshot names; the next run of the same batch deletes them.

Order of commits: quarantine, then ``raw``. Quarantine snapshots carry the batch in their properties, so a run that died
between the two completes without writing them twice. A batch over its error budget commits nothing to ``raw``, but its
refused rows do go to quarantine, because whoever must repair the file needs to see them.

A file is known by its SHA-256: digests of committed files stand in snapshot properties, and those files are skipped;
so do the offset of a database and the segments of events.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from functools import cache

import pyarrow.fs as pafs
from ray.util.metrics import Counter

from raysaas.errors import ConfigError, ContractError, InputError
from raysaas.faults import reached
from raysaas.ingest.contract_report import write_report
from raysaas.ingest.fanning import each, stage_all, types_of
from raysaas.ingest.findings import PROPERTY, Findings, last_accepted
from raysaas.ingest.formats import SourceFile
from raysaas.ingest.intake import intake
from raysaas.ingest.planning import Plan, Target, plan, remove_leftovers
from raysaas.ingest.refusals import num_read, num_refused, warning
from raysaas.ingest.refused_rows import ATTEMPT, QUARANTINE
from raysaas.ingest.settling import Referenced, references, settle
from raysaas.ingest.sources import Found
from raysaas.ingest.staging import Staged
from raysaas.ingest.turns import turn
from raysaas.ingest.verdicts import examine, judge
from raysaas.records import Snapshot
from raysaas.settings import Settings
from raysaas.stores.tables import FILES, Tables

_BATCH, _REFUSED = "raysaas.batch", "raysaas.refused"


def ingest(
    settings: Settings, source_name: str, tables: Tables, now: datetime, found: Iterable[Found] | None = None
) -> Snapshot:
    """Bring what is new in a source into ``raw.<use_case>__<source>`` and return the snapshot that holds it.

    What was committed before is skipped; when there is nothing else, the current snapshot is returned with nothing
    read. ``found`` are the files to look at instead of all that the source names. Ray must be connected. Raises
    InputError (a file is wrong), ContractError (over the error budget), ConfigError (the contract contradicts itself or
    the table), Unavailable (a database does not answer, another job holds the table for too long).
    """
    sources = settings.use_case.sources
    if source_name not in sources:
        known = ", ".join(sources)
        raise ConfigError(f"use_case {settings.use_case.name} has no source {source_name!r}: expected one of {known}.")
    target = Target(settings.use_case.name, source_name)
    with turn(target.raw), intake(settings, source_name, tables, target.raw, found) as taken:
        new, warnings = _new_files(taken.files, tables, target.raw)
        warnings += taken.warnings
        if not new:
            return _snapshot(tables, target.raw, [], warnings)
        made = plan(new, settings, target, tables, now, types_of)
        staged = _run(made, tables, target, references(settings.use_case, source_name, tables))
        reached("ingest", "staged")
        findings = examine(staged, made.batch, last_accepted(tables.history(target.raw)))
        try:
            judge(source_name, staged, made.batch, findings, settings.ingest.error_budget, target.quarantine)
        except ContractError:
            _refused(staged, made, tables, target, findings)
            write_report(settings, source_name, tables, replace(findings, committed=False))
            raise
        _commit(staged, made, tables, target, findings, taken.properties)
        _count(findings, target)
        write_report(settings, source_name, tables, findings)
        warnings += made.warnings + warning(staged, target.quarantine, findings.faults)
        return _snapshot(tables, target.raw, staged, warnings, made.files)


def _new_files(files: list[SourceFile], tables: Tables, raw: str) -> tuple[list[SourceFile], tuple[str, ...]]:
    done = {d for s in tables.history(raw) for d in json.loads(s["properties"].get(FILES, "[]"))}
    new = {file.digest: file for file in reversed(files) if file.digest not in done}
    copies = len([f for f in files if f.digest not in done]) - len(new)
    warnings = (f"{copies} files are exact copies of others and were read once.",) if copies else ()
    return list(reversed(new.values())), warnings


def _run(made: Plan, tables: Tables, target: Target, referenced: dict[str, Referenced]) -> list[Staged]:
    for name in (target.raw, target.quarantine):
        remove_leftovers(tables, name, made.key)
    staged = stage_all(made.batch)
    errors = [s.error for s in staged if s.error]
    if errors:
        _drop(made.batch.accepted_dir)
        _drop(made.batch.refused_dir)
        raise InputError(errors[0])
    return settle(made.batch, staged, tables, target.raw, referenced, each)


def _refused(staged: list[Staged], made: Plan, tables: Tables, target: Target, found: Findings) -> None:
    """Keep the refused rows of a batch that is refused as a whole, and what was found of it."""
    _drop(made.batch.accepted_dir)
    _quarantine(staged, made, tables, target, replace(found, committed=False))


def _commit(
    staged: list[Staged], made: Plan, tables: Tables, target: Target, found: Findings, offsets: dict[str, str]
) -> None:
    attempt = _quarantine(staged, made, tables, target, found)
    reached("ingest", "quarantined")
    properties = {
        FILES: json.dumps([file.digest for file in made.files]), _BATCH: made.key, ATTEMPT: attempt,
        "raysaas.uris": json.dumps([[file.digest, file.uri] for file in made.files]),
        "raysaas.read": str(found.read), "raysaas.quarantined": str(found.refused), PROPERTY: found.to_json(),
        **offsets,
    }  # fmt: skip
    paths = [made.batch.accepted_path(s.part) for s in staged if s.num_accepted]
    tables.add_files(target.raw, made.batch.schema, paths, properties)
    reached("ingest", "committed")


def _quarantine(staged: list[Staged], made: Plan, tables: Tables, target: Target, found: Findings) -> str:
    """Commit the refused rows, unless an earlier run of the batch refused the same; returns whose rows they are."""
    paths = [made.batch.refused_path(s.part) for s in staged if s.num_refused > s.num_late]
    paths += [made.batch.refused_path(s.part, late=True) for s in staged if s.num_late]
    properties = {_BATCH: made.key, _REFUSED: str(sum(s.trace for s in staged) % 2**64), ATTEMPT: made.batch.attempt}
    for one in (s["properties"] for s in tables.history(target.quarantine)):
        if all(one.get(key) == properties[key] for key in (_BATCH, _REFUSED)):
            _drop(made.batch.refused_dir)
            return str(one[ATTEMPT])
    if not found.committed:
        properties[PROPERTY] = found.to_json()
    if paths:
        tables.add_files(target.quarantine, QUARANTINE, paths, properties)
    elif not found.committed:
        tables.append(target.quarantine, QUARANTINE.empty_table(), properties)
    return made.batch.attempt


def _drop(uri: str) -> None:
    fs, path = pafs.FileSystem.from_uri(uri)
    if fs.get_file_info(path).type == pafs.FileType.Directory:
        fs.delete_dir(path)


@cache
def _counter(name: str) -> Counter:
    return Counter(f"raysaas_rows_{name}", f"Source rows {name} by ingest.", tag_keys=("use_case", "source"))


def _count(found: Findings, target: Target) -> None:
    tags = {"use_case": target.use_case, "source": target.source}
    told = {"read": found.read, "accepted": found.accepted, "quarantined": found.refused, "copies": found.duplicates}
    for name, rows in told.items():
        if rows:
            _counter(name).inc(rows, tags)


def _snapshot(
    tables: Tables, raw: str, staged: list[Staged], warnings: tuple[str, ...], files: tuple[SourceFile, ...] = ()
) -> Snapshot:
    if not tables.exists(raw):
        return Snapshot(
            table=raw, snapshot_id=0, num_rows=0, num_read=0, num_accepted=0, num_quarantined=0, schema_hash="",
            warnings=warnings,
        )  # fmt: skip
    schema = tables.schema(raw)
    return Snapshot(
        table=raw, snapshot_id=tables.current(raw) or 0, num_rows=tables.count(raw), num_read=num_read(staged),
        num_accepted=sum(s.num_accepted for s in staged), num_quarantined=num_refused(staged),
        schema_hash=hashlib.sha256(str(schema).encode()).hexdigest()[:16], files=tuple(f.uri for f in files),
        warnings=warnings,
    )  # fmt: skip
