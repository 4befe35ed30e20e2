"""What one task does: check a part of a file and write its accepted and refused rows as Parquet under the warehouse.

Paths depend only on the attempt and the number of the part, so a task that Ray runs again overwrites its own files.
Nothing is visible until the driver adopts the files in one Iceberg commit.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysaas.errors import RaysaasError
from raysaas.ingest.across import QUARANTINE, quarantine
from raysaas.ingest.binding import candidates
from raysaas.ingest.contract import Checked, check_rows
from raysaas.ingest.formats import Block, Malformed, Part, blocks
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

    def accepted_path(self, part: int) -> str:
        """Where the accepted rows of a part are staged."""
        return f"{self.accepted_dir}/part-{part:05d}.parquet"

    def refused_path(self, part: int, *, late: bool = False) -> str:
        """Where the refused rows of a part are staged; ``late`` ones were found across parts."""
        return f"{self.refused_dir}/part-{part:05d}{'-late' if late else ''}.parquet"


@dataclass(frozen=True, slots=True)
class Broken:
    """How often a rule was broken on a column, with one example."""

    rule: str
    column: str
    count: int
    value: str | None
    file: str
    row_number: int


@dataclass(frozen=True, slots=True)
class Staged:
    """What became of one part; ``error`` is the message of an input mistake that stopped it.

    ``num_late`` of the refused rows broke a rule across rows, which only the driver can see.
    """

    part: int
    num_accepted: int = 0
    num_refused: int = 0
    num_late: int = 0
    broken: tuple[Broken, ...] = ()
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
    return Staged(**{**fields, "broken": tuple(Broken(*row) for row in fields.get("broken", ()))})


def _stage(part: int, batch: Batch) -> dict[str, Any]:
    accepted = Sink(batch.accepted_path(part), batch.schema)
    refused = Sink(batch.refused_path(part), QUARANTINE)
    counts: dict[tuple[str, str], list[Any]] = {}
    try:
        for checked in _checked(batch.parts[part], batch):
            accepted.write(checked.accepted.select(batch.schema.names))
            refused.write(checked.refused)
            tally(checked.refused, counts)
    except RaysaasError as error:
        return {"part": part, "error": str(error)}
    finally:
        accepted.close()
        refused.close()
    return {
        "part": part, "num_accepted": accepted.num_rows, "num_refused": refused.num_rows,
        "broken": [[*key, *row] for key, row in counts.items()],
    }  # fmt: skip


def _checked(part: Part, batch: Batch) -> Iterator[Checked]:
    for block in blocks(part):
        if block.malformed:
            yield Checked(batch.schema.empty_table(), _malformed(block.malformed, part.file.uri, batch.now))
        yield _check(block, part, batch)


def _check(block: Block, part: Part, batch: Batch) -> Checked:
    return check_rows(
        block.table, batch.source, now=batch.now, numbers=block.numbers, file=part.file.uri, digest=part.file.digest,
        future_tolerance_s=batch.future_tolerance_s, day_first=batch.day_first,
    )  # fmt: skip


def _malformed(rows: list[Malformed], uri: str, now: datetime) -> pa.Table:
    text = pa.array([row.text for row in rows], pa.string())
    columns = [
        pa.repeat(pa.scalar(uri), len(rows)), pa.array([row.number for row in rows], pa.int64()),
        pa.array([row.rule for row in rows], pa.string()), pa.repeat(pa.scalar(""), len(rows)), text,
        pa.array([json.dumps(row.text) for row in rows], pa.string()),
    ]  # fmt: skip
    return quarantine(columns, now)


def tally(refused: pa.Table, counts: dict[tuple[str, str], list[Any]]) -> None:
    """Add refused rows to ``counts``: (rule, column) -> count, value, file and row number of the first one."""
    grouped = refused.append_column("i", pa.array(np.arange(refused.num_rows))).group_by(["rule", "column"])
    for row in grouped.aggregate([("i", "count"), ("i", "min")]).to_pylist():
        first = refused.slice(row["i_min"], 1).to_pylist()[0]
        fresh = [0, first["value"], first["source_file"], first["row_number"]]
        counts.setdefault((row["rule"], row["column"]), fresh)[0] += row["i_count"]


class Sink:
    """A Parquet file under the warehouse that exists only once a row is written to it."""

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self.uri, self.schema, self.num_rows = uri, schema, 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Append rows, cast to the schema."""
        if not rows.num_rows:
            return
        if self._writer is None:
            fs, path = pafs.FileSystem.from_uri(self.uri)
            fs.create_dir(path.rpartition("/")[0], recursive=True)
            self._writer = pq.ParquetWriter(path, self.schema, filesystem=fs, compression="zstd")
        self._writer.write_table(rows.cast(self.schema))
        self.num_rows += rows.num_rows

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()
