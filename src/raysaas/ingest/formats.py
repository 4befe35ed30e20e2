"""How files become blocks of rows: CSV, JSON Lines and Parquet cut into parts that tasks read on their own.

A part is a range of whole records (CSV, JSON Lines) or of row groups (Parquet) and knows the number of its first row,
so that row numbers do not depend on how many parts there are. Memory per part is bounded whatever the size of the file.
Libraries: pyarrow.csv, pyarrow.parquet, DuckDB's JSON functions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysaas.errors import InputError
from raysaas.ingest.casts import connection
from raysaas.ingest.uris import told
from raysaas.use_case import Format

_CHUNK = 8 << 20
_BATCH_ROWS = 131_072


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One input file: ``header`` are its own column names, ``body`` the byte offset of its first row.

    ``uri`` is what people are told; the bytes are at ``place`` where that is something else: an extract of a database,
    a URI with credentials. ``pushed`` rows came in one by one from many senders, so that no share of them speaks for
    the file.
    In JSON Lines and Parquet ``paths`` are the keys that lead to each column: ``age`` inside the object ``user`` is the
    column ``user.age``. ``holds`` says of columns whose values are no single values what they are: ``lists``.
    """

    uri: str
    format: Format
    digest: str
    num_bytes: int
    encoding: str = "utf8"
    delimiter: str = ","
    header: tuple[str, ...] = ()
    body: int = 0
    paths: tuple[tuple[str, ...], ...] = ()
    holds: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    pushed: bool = False

    @property
    def location(self) -> str:
        """Where the bytes are."""
        return self.place or self.uri

    @property
    def nested(self) -> tuple[str, ...]:
        """Names of the columns that lie inside objects."""
        return tuple(name for name, path in zip(self.header, self.paths, strict=False) if len(path) > 1)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes (or row groups) ``start`` to ``end`` of a file; ``first_row`` counts its rows from 0."""

    file: SourceFile
    start: int
    end: int
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that is not a row at all: ``text`` is what the file says."""

    number: int
    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """Rows under the file's own names, with their row numbers (1 is the first row after the header)."""

    table: pa.Table
    numbers: np.ndarray
    malformed: list[Malformed] = field(default_factory=list)


@lru_cache(64)
def filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return pyarrow's filesystem for a URI or local path, and the path inside it. Raises InputError."""
    try:
        fs, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError) as error:
        said = str(error).replace(uri, told(uri))
        raise InputError(f"{told(uri)} is not a path or URI that can be opened ({said}).") from None
    return fs, path


def split(file: SourceFile, part_bytes: int) -> list[Part]:
    """Cut ``file`` into parts of about ``part_bytes``, at record borders, never inside a quoted newline."""
    if file.format is Format.parquet:
        return _row_groups(file, part_bytes)
    if file.num_bytes - file.body <= part_bytes:
        return [Part(file, file.body, file.num_bytes)]
    fs, path = filesystem(file.location)
    with fs.open_input_stream(path) as stream:
        stream.read(file.body)
        return _scan(file, stream, part_bytes)


def _row_groups(file: SourceFile, part_bytes: int) -> list[Part]:
    fs, path = filesystem(file.location)
    metadata = pq.read_metadata(path, filesystem=fs)
    parts, start, first, rows, size = [], 0, 0, 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        size += metadata.row_group(group).total_byte_size
        if size >= part_bytes or group + 1 == metadata.num_row_groups:
            parts.append(Part(file, start, group + 1, first))
            start, first, size = group + 1, rows, 0
    return parts


def _scan(file: SourceFile, stream: pa.NativeFile, part_bytes: int) -> list[Part]:
    quoted = file.format is Format.csv
    parts, start, first, base, rows, inside, last = [], file.body, 0, file.body, 0, False, file.body - 1
    before = 10
    while chunk := stream.read(_CHUNK):
        if chunk.endswith(b"\r"):
            chunk += stream.read(1)
        if not inside and _simple(chunk, quoted, at_start=last == base - 1):
            while (at := chunk.find(b"\n", max(start + part_bytes - base, 0))) >= 0:
                parts.append(Part(file, start, base + at + 1, first))
                start, first = base + at + 1, rows + chunk.count(b"\n", 0, at + 1)
            rows, last = rows + chunk.count(b"\n"), _last_newline(chunk, base, last)
            base, before = base + len(chunk), chunk[-1]
            continue
        found = _record_ends(chunk, before, inside, ord(file.delimiter) if quoted else None)
        if found is None:
            return [Part(file, file.body, file.num_bytes)]
        ends, inside = found
        ends, filled = _filled(chunk, base, ends, last)
        counts = rows + np.cumsum(filled)
        while len(ends) and (at := int(np.searchsorted(ends, start + part_bytes))) < len(ends):
            parts.append(Part(file, start, int(ends[at]) + 1, first))
            start, first = int(ends[at]) + 1, int(counts[at])
        if len(ends):
            rows, last = int(counts[-1]), int(ends[-1])
        base, before = base + len(chunk), chunk[-1]
    if start < file.num_bytes:
        parts.append(Part(file, start, file.num_bytes, first))
    return parts


def _last_newline(chunk: bytes, base: int, last: int) -> int:
    at = chunk.rfind(b"\n")
    return base + at if at >= 0 else last


def _simple(chunk: bytes, quoted: bool, *, at_start: bool) -> bool:
    """Whether every newline ends a record that is not an empty line: then counting bytes is enough."""
    odd = (b"\r", b"\n\n", b'"') if quoted else (b"\r", b"\n\n")
    return not any(one in chunk for one in odd) and not (at_start and chunk.startswith(b"\n"))


def _record_ends(chunk: bytes, before: int, inside: bool, delimiter: int | None) -> tuple[np.ndarray, bool] | None:
    """Positions of newlines that end a record; None where quoting is too loose to tell without parsing."""
    data = np.frombuffer(chunk, np.uint8)
    newlines = np.flatnonzero(data == 10)
    if delimiter is None or (not inside and b'"' not in chunk):
        loose = delimiter is not None and chunk.count(b"\r") != chunk.count(b"\r\n")
        return None if loose else (newlines, inside)
    # By the places of quotes and newlines, which are few: a pass over every byte takes three times as long.
    quotes = np.flatnonzero(data == 34)
    opening = quotes[int(inside) :: 2]
    previous = np.where(opening > 0, data[opening - 1], before)
    if not ((previous == delimiter) | (previous == 10) | (previous == 34)).all():
        return None
    outside = (np.searchsorted(quotes, newlines) + inside) & 1 == 0
    return newlines[outside], bool((len(quotes) + inside) & 1)


def _filled(chunk: bytes, base: int, ends: np.ndarray, last: int) -> tuple[np.ndarray, np.ndarray]:
    """File offsets of record ends, and whether each ends a record that is not an empty line."""
    data = np.frombuffer(chunk, np.uint8)
    returns = (data[np.maximum(ends - 1, 0)] == 13) & (ends > 0)
    offsets = ends + base
    lengths = np.diff(offsets, prepend=last) - 1 - returns
    return offsets, lengths > 0


def blocks(part: Part) -> Iterator[Block]:
    """Read a part block by block. Raises InputError when the bytes are not what the header promised."""
    readers = {Format.csv: _csv_blocks, Format.jsonl: _jsonl_blocks, Format.parquet: _parquet_blocks}
    try:
        yield from readers[part.file.format](part)
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise InputError(f"{part.file.uri} cannot be read as {part.file.format} ({error}).") from error


def _bytes(part: Part) -> bytes:
    fs, path = filesystem(part.file.location)
    with fs.open_input_file(path) as file:
        return bytes(file.read_at(part.end - part.start, part.start))


def _csv_blocks(part: Part) -> Iterator[Block]:
    bad: list[Malformed] = []

    def refuse(row: pacsv.InvalidRow) -> str:
        expected = f"{row.actual_columns} fields, not {row.expected_columns}: {row.text}"
        bad.append(Malformed(part.first_row + row.number, "columns", expected))
        return "skip"

    names, done = part.file.header, part.first_row
    reader = pacsv.open_csv(
        pa.BufferReader(_bytes(part)),
        pacsv.ReadOptions(column_names=names, use_threads=False, block_size=_CHUNK, encoding=part.file.encoding),
        pacsv.ParseOptions(delimiter=part.file.delimiter, newlines_in_values=True, invalid_row_handler=refuse),
        pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )
    for batch in reader:
        # The handler runs one block ahead of the reader at times: only numbers up to this block's end are its own.
        numbers, taken = _numbers(done, batch.num_rows, [row.number for row in bad])
        done = int(numbers[-1]) if len(numbers) else done
        yield Block(pa.Table.from_batches([batch]), numbers, bad[:taken])
        del bad[:taken]
    if bad:
        yield Block(pa.table({name: pa.array([], pa.string()) for name in names}), np.empty(0, np.int64), bad)


def _numbers(done: int, num_rows: int, skipped: list[int]) -> tuple[np.ndarray, int]:
    """The next ``num_rows`` row numbers after ``done`` outside ``skipped``, and how many of those were passed."""
    candidates = np.arange(done + 1, done + 1 + num_rows + len(skipped))
    numbers = np.setdiff1d(candidates, skipped, assume_unique=True)[:num_rows]
    last = numbers[-1] if num_rows else done
    return numbers, int(np.searchsorted(skipped, last)) if skipped else 0


def json_lines(data: bytes, encoding: str) -> pa.Array:
    """The lines of JSON Lines text, empty ones left out."""
    text = data.decode(encoding)
    lines = pc.list_flatten(pc.split_pattern(pa.array([text], pa.large_string()), "\n"))
    lines = pc.utf8_rtrim(lines, "\r")
    return lines.filter(pc.not_equal(lines, ""))


def _jsonl_blocks(part: Part) -> Iterator[Block]:
    lines = json_lines(_bytes(part), part.file.encoding)
    picks = ", ".join(f"o ->> {_pointer(path)} AS c{i}" for i, path in enumerate(part.file.paths))
    valid = "json_valid(line) AND json_type(CASE WHEN json_valid(line) THEN line END) = 'OBJECT'"
    with connection() as db:
        db.register("lines", pa.table({"line": lines}))
        ok = db.sql(f"SELECT coalesce({valid}, false) AS ok FROM lines").to_arrow_table()["ok"].combine_chunks()
        db.register("objects", pa.table({"o": lines.filter(ok)}))
        table = db.sql(f"SELECT {picks} FROM objects").to_arrow_table()
    numbers = np.arange(len(lines)) + part.first_row + 1
    mask = ok.to_numpy(zero_copy_only=False)
    wrong = zip(numbers[~mask].tolist(), lines.filter(pc.invert(ok)).to_pylist(), strict=True)
    bad = [Malformed(number, "json", text) for number, text in wrong]
    yield Block(table.rename_columns(list(part.file.header)), numbers[mask], bad)


def _pointer(path: tuple[str, ...]) -> str:
    pointer = "".join("/" + key.replace("~", "~0").replace("/", "~1").replace("'", "''") for key in path)
    return f"'{pointer}'"


def _parquet_blocks(part: Part) -> Iterator[Block]:
    fs, path = filesystem(part.file.location)
    done = part.first_row
    with pq.ParquetFile(path, filesystem=fs) as file:
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=list(range(part.start, part.end))):
            numbers = np.arange(done, done + batch.num_rows) + 1
            done += batch.num_rows
            yield Block(flattened(pa.Table.from_batches([batch])), numbers)


def flattened(table: pa.Table) -> pa.Table:
    """``table`` with a column for each field of its structs, ``user.age``; null where the struct is."""
    while any(map(pa.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table
