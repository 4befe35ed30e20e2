"""Files in, one Iceberg commit out: the `ingest` step on Ray Data.

Tasks read parts of files, check them and stage accepted and refused rows as Parquet under the warehouse; the driver
looks at the counts, settles the rules across rows, and adopts the staged files with ``add_files``: one atomic commit to
``raw.*`` whatever the size of the batch. Why not Ray Data's ``write_iceberg``: it commits when the last block is
written, before anyone knows whether the error budget holds or a key came twice, so it would need a second pass over
materialised blocks. Staging takes one pass and one Ray Data action, keeps memory flat, and a kill at any moment leaves
files that no snapshot names; the next run of the same batch deletes them.

Order of commits: quarantine, then ``raw``. Quarantine snapshots carry the batch in their properties, so a run that died
between the two completes without writing them twice. A batch over its error budget commits nothing to ``raw``, but its
refused rows do go to quarantine, because whoever must repair the file needs to see them.

A file is known by its SHA-256: digests of committed files stand in snapshot properties, and those files are skipped.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial

import pyarrow as pa
import pyarrow.fs as pafs
import ray
import ray.data
from ray.util.metrics import Counter

from raysaas.errors import ConfigError, ContractError, InputError, Unavailable
from raysaas.ingest.across import QUARANTINE
from raysaas.ingest.formats import Part, SourceFile
from raysaas.ingest.planning import Plan, Target, plan, remove_leftovers
from raysaas.ingest.refusals import examples, num_read, num_refused, warning
from raysaas.ingest.settling import settle
from raysaas.ingest.sources import discover
from raysaas.ingest.staging import Staged, decode, part_types, stage, types
from raysaas.records import Snapshot
from raysaas.settings import Settings
from raysaas.stores.tables import Tables
from raysaas.use_case import ColumnType

_TURN_S = 600
_FILES, _BATCH = "raysaas.files", "raysaas.batch"


def ingest(settings: Settings, source_name: str, tables: Tables, now: datetime) -> Snapshot:
    """Bring the new files of a source into ``raw.<use_case>__<source>`` and return the snapshot that holds them.

    Files that were committed before are skipped; when there are no others, the current snapshot is returned with
    nothing read. Ray must be connected. Raises InputError (a file is wrong), ContractError (over the error budget),
    ConfigError (the contract contradicts itself or the table), Unavailable (another job holds the table for too long).
    """
    sources = settings.use_case.sources
    if source_name not in sources:
        known = ", ".join(sources)
        raise ConfigError(f"use_case {settings.use_case.name} has no source {source_name!r}: expected one of {known}.")
    target = Target(settings.use_case.name, source_name)
    files = discover(sources[source_name], settings.data_dir)
    with _turn(target.raw):
        new, warnings = _new_files(files, tables, target.raw)
        if not new:
            return _snapshot(tables, target.raw, [], warnings)
        made = plan(new, settings, target, tables, now, _types_of)
        staged = _run(made, tables, target)
        _judge(staged, settings.ingest.error_budget, made, tables, target)
        _commit(staged, made, tables, target)
        _count(staged, target)
        warnings += made.warnings + warning(staged, target.quarantine)
        return _snapshot(tables, target.raw, staged, warnings, made.files)


class _Holder:
    """Its name in the cluster is the lock; it dies with the driver that made it, whatever happens to that."""


@contextmanager
def _turn(name: str) -> Iterator[None]:
    """Let one job at a time write a table, or two runs over the same new files would both commit them."""
    deadline = time.monotonic() + _TURN_S
    actor = ray.remote(num_cpus=0)(_Holder).options(name=f"ingest/{name}", namespace="raysaas")
    while True:
        try:
            holder = actor.remote()
            break
        except ValueError:
            if time.monotonic() > deadline:
                raise Unavailable(f"Another job has been ingesting into {name} for {_TURN_S} s; try again.") from None
            time.sleep(0.2)
    try:
        yield
    finally:
        ray.kill(holder)


def _new_files(files: list[SourceFile], tables: Tables, raw: str) -> tuple[list[SourceFile], tuple[str, ...]]:
    done = {d for s in tables.snapshots(raw) for d in json.loads(s["properties"].get(_FILES, "[]"))}
    new = {file.digest: file for file in reversed(files) if file.digest not in done}
    copies = len([f for f in files if f.digest not in done]) - len(new)
    warnings = (f"{copies} files are exact copies of others and were read once.",) if copies else ()
    return list(reversed(new.values())), warnings


def _run(made: Plan, tables: Tables, target: Target) -> list[Staged]:
    for name in (target.raw, target.quarantine):
        remove_leftovers(tables, name, made.key)
    staged = sorted((decode(r) for r in _fan_out(partial(stage, batch=made.batch), len(made.batch.parts))), key=_part)
    errors = [s.error for s in staged if s.error]
    if errors:
        _drop(made.batch.accepted_dir)
        _drop(made.batch.refused_dir)
        raise InputError(errors[0])
    return settle(made.batch, staged, tables, target.raw)


def _part(staged: Staged) -> int:
    return staged.part


def _fan_out(task: Callable[[pa.Table], pa.Table], num_parts: int) -> list[str]:
    """Run ``task`` over the numbers of the parts, one Ray Data block each; return its column ``result``."""
    numbers = ray.data.from_items([{"part": i} for i in range(num_parts)], override_num_blocks=num_parts)
    done = numbers.map_batches(task, batch_format="pyarrow", batch_size=None)
    done.context.enable_progress_bars = False
    return [row["result"] for row in done.take_all()]


def _types_of(parts: tuple[Part, ...]) -> dict[str, set[ColumnType]]:
    # A Ray Data action costs seconds; one part is read here in less.
    found = [part_types(parts[0])] if len(parts) == 1 else _decoded(_fan_out(partial(types, parts=parts), len(parts)))
    fitting: dict[str, set[ColumnType]] = {}
    for one in found:
        for name, kinds in one.items():
            fitting[name] = fitting.get(name, set(kinds)) & set(kinds)
    return fitting


def _decoded(results: list[str]) -> list[dict[str, list[ColumnType]]]:
    """Types by part, parts in order, so that columns keep the order of the first file."""
    return [row["types"] for row in sorted(map(json.loads, results), key=lambda row: row["part"])]


def _judge(staged: list[Staged], budget: float, made: Plan, tables: Tables, target: Target) -> None:
    """Raise ContractError when the batch is over its error budget."""
    read, refused = num_read(staged), num_refused(staged)
    if refused <= budget * read:
        return
    _drop(made.batch.accepted_dir)
    _quarantine(staged, made, tables, target)
    raise ContractError(
        f"{refused} of {read} rows ({refused / read:.1%}) of source {target.source!r} broke the "
        f"contract, over the budget of {budget:.1%} (ingest.error_budget); nothing was committed. {examples(staged)} "
        f"All of them are in {target.quarantine}. Repair the file, or change the contract or the budget."
    )


def _commit(staged: list[Staged], made: Plan, tables: Tables, target: Target) -> None:
    _quarantine(staged, made, tables, target)
    properties = {
        _FILES: json.dumps([file.digest for file in made.files]), _BATCH: made.key,
        "raysaas.read": str(num_read(staged)), "raysaas.quarantined": str(num_refused(staged)),
    }  # fmt: skip
    paths = [made.batch.accepted_path(s.part) for s in staged if s.num_accepted]
    tables.add_files(target.raw, made.batch.schema, paths, properties)


def _quarantine(staged: list[Staged], made: Plan, tables: Tables, target: Target) -> None:
    paths = [made.batch.refused_path(s.part) for s in staged if s.num_refused > s.num_late]
    paths += [made.batch.refused_path(s.part, late=True) for s in staged if s.num_late]
    if any(s["properties"].get(_BATCH) == made.key for s in tables.snapshots(target.quarantine)):
        _drop(made.batch.refused_dir)
    elif paths:
        tables.add_files(target.quarantine, QUARANTINE, paths, {_BATCH: made.key})


def _drop(uri: str) -> None:
    fs, path = pafs.FileSystem.from_uri(uri)
    if fs.get_file_info(path).type == pafs.FileType.Directory:
        fs.delete_dir(path)


@cache
def _counter(name: str) -> Counter:
    return Counter(f"raysaas_rows_{name}", f"Source rows {name} by ingest.", tag_keys=("use_case", "source"))


def _count(staged: list[Staged], target: Target) -> None:
    tags = {"use_case": target.use_case, "source": target.source}
    accepted, quarantined = sum(s.num_accepted for s in staged), num_refused(staged)
    for name, rows in {"read": accepted + quarantined, "accepted": accepted, "quarantined": quarantined}.items():
        if rows:
            _counter(name).inc(rows, tags)


def _snapshot(
    tables: Tables, raw: str, staged: list[Staged], warnings: tuple[str, ...], files: tuple[SourceFile, ...] = ()
) -> Snapshot:
    schema = tables.schema(raw)
    return Snapshot(
        table=raw, snapshot_id=tables.current(raw) or 0, num_rows=tables.count(raw), num_read=num_read(staged),
        num_accepted=sum(s.num_accepted for s in staged), num_quarantined=num_refused(staged),
        schema_hash=hashlib.sha256(str(schema).encode()).hexdigest()[:16], files=tuple(f.uri for f in files),
        warnings=warnings,
    )  # fmt: skip
