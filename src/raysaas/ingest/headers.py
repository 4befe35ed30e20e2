"""The header of a text file from its first bytes: delimiter, column names, and where the rows begin."""

import codecs
import csv
import io
import re
from dataclasses import replace

import pyarrow as pa

from raysaas.errors import InputError
from raysaas.ingest.casts import connection
from raysaas.ingest.formats import SourceFile, json_lines


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
    """Return ``file`` with the keys found in its first thousand lines, in order of appearance."""
    bom = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    whole = head if len(head) == file.num_bytes else head[: head.rfind(b"\n") + 1]
    lines = json_lines(whole[bom:], file.encoding)
    with connection() as db:
        db.register("lines", pa.table({"line": lines[:1000]}))
        rows = db.execute(
            "SELECT json_keys(line) FROM lines WHERE json_valid(line) AND json_type(line) = 'OBJECT'"
        ).fetchall()
    names = tuple(dict.fromkeys(key for (keys,) in rows for key in keys))
    if not names:
        raise InputError(f"{file.uri} has no JSON object in its first lines: expected one object per line.")
    return replace(file, header=names, body=bom)
