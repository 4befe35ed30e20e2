"""The header of a file: its column names, and of a text file the delimiter and where the rows begin."""

import codecs
import csv
import io
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq

from raysaas.errors import InputError
from raysaas.ingest.casts import connection
from raysaas.ingest.formats import SourceFile, filesystem, json_lines
from raysaas.ingest.nesting import arrow_leaves, json_leaves, parsed, with_leaves

_JSON_ROWS = 1000


def csv_header(file: SourceFile, head: bytes) -> SourceFile:
    """Return ``file`` with delimiter, column names and the offset of the first row. ``head`` are its first bytes."""
    bom = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    text = head[bom:].decode(file.encoding, "ignore")
    delimiter = _sniff(text)
    lead = re.match(r"[\r\n]*", text)
    start = lead.end() if lead else 0
    end = _record_end(text, start, delimiter)
    names = next(csv.reader(io.StringIO(text[start:end], newline=""), delimiter=delimiter), [])
    header = tuple(name.strip() or f"column_{i}" for i, name in enumerate(names, 1))
    if not header or all(re.fullmatch(r"[-+.\deE]*\d[-+.\deE]*", name) for name in header):
        raise InputError(f"{file.uri}: the first line holds values, not column names. Add a header line.")
    rest = re.match(r"[\r\n]*", text[end:])
    body = bom + len(text[: end + (rest.end() if rest else 0)].encode(file.encoding))
    return replace(file, delimiter=delimiter, header=header, body=body)


def _record_end(text: str, start: int, delimiter: str) -> int:
    pattern = rf'(?:(?<=[{re.escape(delimiter)}\r\n])|\A)"(?:[^"]|"")*"|(\r\n|\n|\r)'
    for match in re.compile(pattern).finditer(text, start):
        if match.group(1):
            return match.start()
    return len(text)


def _sniff(text: str) -> str:
    lines = text.lstrip("\r\n")[: 1 << 16]

    def score(delimiter: str) -> tuple[float, int]:
        reader = csv.reader(io.StringIO(lines, newline=""), delimiter=delimiter)
        widths = [len(row) for row, _ in zip(reader, range(20), strict=False) if row]
        return (sum(w == widths[0] for w in widths) / len(widths), widths[0]) if widths and widths[0] > 1 else (0, 0)

    best = max(",;\t|", key=score)
    return best if score(best)[1] else ","


def jsonl_header(file: SourceFile, head: bytes) -> SourceFile:
    """Return ``file`` with the fields found in its first thousand lines, in order of appearance."""
    bom = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    whole = head if len(head) == file.num_bytes else head[: head.rfind(b"\n") + 1]
    lines = json_lines(whole[bom:], file.encoding)
    with connection() as db:
        db.register("lines", pa.table({"line": lines[:_JSON_ROWS]}))
        rows = db.execute("SELECT line FROM lines WHERE json_valid(line) AND json_type(line) = 'OBJECT'").fetchall()
    leaves = list(json_leaves([parsed(line) for (line,) in rows]))
    if not leaves:
        raise InputError(f"{file.uri} has no JSON object in its first lines: expected one object per line.")
    return replace(with_leaves(file, leaves), body=bom)


def parquet_header(file: SourceFile) -> SourceFile:
    """Return ``file`` with the names in its schema. Raises InputError when it cannot be read or has no rows."""
    fs, path = filesystem(file.location)
    try:
        metadata = pq.read_metadata(path, filesystem=fs)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.uri} is not a readable Parquet file ({error}): write it again.") from error
    if not metadata.num_rows:
        raise InputError(f"{file.uri} has a schema and no rows: expected a file with at least one row.")
    return with_leaves(file, list(arrow_leaves(metadata.schema.to_arrow_schema())))
