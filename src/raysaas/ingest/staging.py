"""What one task does: check a part of a file and write its accepted and refused rows under the warehouse.

Both as Parquet, ready to be adopted; accepted rows that rules across rows still have to look at wait as Arrow files.

Paths depend only on the attempt and the number of the part, so a task that Ray runs again overwrites its own files.
Nothing is visible until the driver adopts the files in one Iceberg commit.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import RaysaasError
from raysaas.ingest.across import key_columns, with_copy
from raysaas.ingest.actions import action
from raysaas.ingest.binding import ROLES, candidates
from raysaas.ingest.casts import connection
from raysaas.ingest.contract import Checked, check_rows
from raysaas.ingest.findings import Broken
from raysaas.ingest.forgotten import bare, unkept, unread
from raysaas.ingest.formats import Block, Malformed, Part, SourceFile, blocks
from raysaas.ingest.platform_columns import row_ids
from raysaas.ingest.refused_rows import QUARANTINE, quarantine, tried
from raysaas.ingest.sinks import IpcSink, Sink
from raysaas.stores.tombstones import NOBODY, Tombstones
from raysaas.use_case import ColumnType, Source


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything a task needs to know: parts, contract, clock, and where the rows go."""

    parts: tuple[Part, ...]
    source: Source
    schema: pa.Schema
    day_first: Mapping[str, bool]
    now: datetime
    future_tolerance_s: int
    accepted_dir: str
    refused_dir: str
    attempt: str = ""
    tombstones: Tombstones = NOBODY

    def accepted_path(self, part: int) -> str:
        """Where the accepted rows of a part are staged."""
        return f"{self.accepted_dir}/part-{part:05d}.parquet"

    def checked_path(self, part: int) -> str:
        """Where the rows of a part wait for the rules across rows (Arrow IPC)."""
        return f"{self.accepted_dir}/part-{part:05d}.arrow"

    @property
    def unsettled(self) -> bool:
        """Whether there are rules across rows, so that rows wait for them before they become Parquet."""
        return bool(key_columns(self.source))

    def refused_path(self, part: int, *, late: bool = False) -> str:
        """Where the refused rows of a part are staged; ``late`` ones were found across parts."""
        return f"{self.refused_dir}/part-{part:05d}{'-late' if late else ''}.parquet"


@dataclass(frozen=True, slots=True)
class Staged:
    """What became of one part; ``error`` is the message of an input mistake that stopped it.

    ``num_late`` of the refused rows broke a rule across rows, which only the driver can see; ``num_copies`` were
    dropped. ``nulls`` (per column) and ``newest`` (event time, microseconds since 1970) are those of accepted rows.
    ``trace`` tells apart which rows were refused for which rule.
    """

    part: int
    num_accepted: int = 0
    num_refused: int = 0
    num_late: int = 0
    num_copies: int = 0
    broken: tuple[Broken, ...] = ()
    nulls: Mapping[str, int] = field(default_factory=dict)
    newest: int | None = None
    trace: int = 0
    error: str = ""


def stage(numbers: pa.Table, batch: Batch) -> pa.Table:
    """Check and write the parts listed in column ``part``; returns one row per part: ``result`` as JSON."""
    return _answers(numbers, lambda part: json.dumps(_stage(part, batch)))


def types(numbers: pa.Table, parts: tuple[Part, ...]) -> pa.Table:
    """Find the types that the columns of each part fit; returns one row per part: ``result`` as JSON."""
    return _answers(numbers, lambda part: json.dumps({"part": part, "types": part_types(parts[part])}))


def _answers(numbers: pa.Table, answer: Callable[[int], str]) -> pa.Table:
    return pa.table({"result": pa.array([answer(part) for part in numbers["part"].to_pylist()], pa.string())})


def part_types(part: Part) -> dict[str, list[ColumnType]]:
    """Types that all values of each column of a part fit; columns of lists and the like are left out."""
    fitting: dict[str, set[ColumnType]] = {}
    for block in blocks(part):
        usable = [name for name in block.table.column_names if name not in part.file.holds]
        for name, kinds in candidates(block.table.select(usable)).items():
            fitting[name] = fitting.get(name, kinds) & kinds
    return {name: sorted(kinds) for name, kinds in fitting.items()}


def decode(result: str) -> Staged:
    """Turn a row of ``stage`` back into its record."""
    fields = json.loads(result)
    return Staged(**{**fields, "broken": tuple(Broken(**one) for one in fields.get("broken", ()))})


def _stage(part: int, batch: Batch) -> dict[str, Any]:
    out = _Part(part, batch)
    try:
        for checked in _checked(batch.parts[part], batch):
            out.write(checked)
    except RaysaasError as error:
        return asdict(Staged(part, error=str(error)))
    finally:
        out.close()
    return asdict(out.staged())


class _Part:
    """The files and counts of one part while it is being staged."""

    def __init__(self, part: int, batch: Batch) -> None:
        self.part, self.batch = part, batch
        path, schema = batch.accepted_path(part), batch.schema
        self.accepted = IpcSink(batch.checked_path(part)) if batch.unsettled else Sink(path, schema)
        self.refused = Sink(batch.refused_path(part), QUARANTINE)
        self.broken: list[Broken] = []
        self.nulls = dict.fromkeys(own_columns(batch.schema), 0)
        self.newest: int | None = None
        self.trace = self.copies = 0

    def write(self, checked: Checked) -> None:
        rows = checked.accepted.select(self.batch.schema.names)
        self.accepted.write(with_copy(rows, self.batch.source) if self.batch.unsettled else rows)
        self.refused.write(tried(checked.refused, self.batch.attempt))
        self.broken += [*tally(checked.refused, self.batch.source), *checked.told]
        self.nulls = {name: count + rows[name].null_count for name, count in self.nulls.items()}
        self.newest = latest(rows, self.newest)
        self.trace += trace(checked.refused)
        self.copies += checked.copies

    def close(self) -> None:
        self.accepted.close()
        self.refused.close()

    def staged(self) -> Staged:
        return Staged(
            self.part, self.accepted.num_rows, self.refused.num_rows, broken=merged(self.broken), nulls=self.nulls,
            newest=self.newest, trace=self.trace, num_copies=self.copies,
        )  # fmt: skip


def own_columns(schema: pa.Schema) -> list[str]:
    """The columns that a source has of its own."""
    return [name for name in schema.names if name not in ("row_id", *ROLES)]


def latest(rows: pa.Table, before: int | None = None) -> int | None:
    """The newest event time of ``rows``, microseconds since 1970, or ``before`` where that is newer."""
    newest = pc.max(rows["event_time"]).cast(pa.int64()).as_py()
    return max((time for time in (newest, before) if time is not None), default=None)


def trace(refused: pa.Table) -> int:
    """A number that is equal, in sum, where the same rows were refused for the same reasons."""
    if not refused.num_rows:
        return 0
    with connection() as db:
        db.register("t", refused)
        sql = 'SELECT (sum(hash(row_id, rule, "column", value)::HUGEINT) % (1::HUGEINT << 64))::UBIGINT AS x FROM t'
        return int(db.sql(sql).to_arrow_table()["x"][0].as_py())


def _checked(part: Part, batch: Batch) -> Iterator[Checked]:
    gone, file = batch.tombstones, part.file
    for block in blocks(part):
        if block.malformed:
            yield Checked(batch.schema.empty_table(), bare(_malformed(block.malformed, file, batch.now), gone))
        block, numbers = unread(block, batch.source, gone)
        yield unkept(_check(block, part, batch), gone, numbers, file.uri, batch.source, block.table.column_names)


def _check(block: Block, part: Part, batch: Batch) -> Checked:
    return check_rows(
        block.table, batch.source, now=batch.now, numbers=block.numbers, file=part.file.uri, digest=part.file.digest,
        future_tolerance_s=batch.future_tolerance_s, day_first=batch.day_first,
    )  # fmt: skip


def _malformed(rows: list[Malformed], file: SourceFile, now: datetime) -> pa.Table:
    text = pa.array([row.text for row in rows], pa.string())
    numbers = np.array([row.number for row in rows])
    columns = [
        pa.repeat(pa.scalar(file.uri), len(rows)), pa.array(numbers),
        pa.array([row.rule for row in rows], pa.string()), pa.repeat(pa.scalar(""), len(rows)), text,
        pa.array([json.dumps(row.text) for row in rows], pa.string()), row_ids(file.digest, numbers),
    ]  # fmt: skip
    return quarantine(columns, now)


def tally(refused: pa.Table, source: Source) -> list[Broken]:
    """Count refused rows per rule and column, each with the first one."""
    grouped = refused.append_column("i", pa.array(np.arange(refused.num_rows))).group_by(["rule", "column"])
    told = []
    for row in grouped.aggregate([("i", "count"), ("i", "min")]).to_pylist():
        first, does = refused.slice(row["i_min"], 1).to_pylist()[0], action(source, row["rule"], row["column"])
        place = first["value"], first["source_file"], first["row_number"]
        told.append(Broken(row["rule"], row["column"], row["i_count"], *place, str(does)))
    return told


def merged(broken: Iterable[Broken]) -> tuple[Broken, ...]:
    """One entry per rule, column and action: its total and its first example."""
    total: dict[tuple[str, str, str], Broken] = {}
    for one in broken:
        key = one.rule, one.column, one.action
        total[key] = replace(total[key], count=total[key].count + one.count) if key in total else one
    return tuple(total.values())
