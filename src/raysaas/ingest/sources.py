"""Which files a source names, and what each of them is: format, encoding, header, content digest.

Paths are local files, directories, globs, or any URI that ``pyarrow.fs.FileSystem.from_uri`` knows. What a file is
called is only a first guess: its first bytes must agree, so that a PNG named ``.csv`` is refused before a row is read.
"""

import codecs
import fnmatch
import hashlib
import logging
import re
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs

from raysaas.errors import InputError, RaysaasError, Unavailable
from raysaas.ingest.formats import SourceFile, blocks, filesystem, split
from raysaas.ingest.headers import csv_header, jsonl_header, parquet_header
from raysaas.ingest.uris import authority, is_uri, parted, told
from raysaas.use_case import Format, Source

_LOG = logging.getLogger(__name__)
_CHUNK = 8 << 20
_SUFFIXES = {
    ".csv": Format.csv, ".tsv": Format.csv, ".txt": Format.csv, ".parquet": Format.parquet, ".pq": Format.parquet,
    ".jsonl": Format.jsonl, ".ndjson": Format.jsonl, ".json": Format.jsonl,
}  # fmt: skip
_FOREIGN = {
    b"\x89PNG": "a PNG image", b"\xff\xd8\xff": "a JPEG image", b"GIF8": "a GIF image", b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive (or an Excel workbook)", b"\x1f\x8b": "gzip-compressed", b"BZh": "bzip2-compressed",
    b"\x28\xb5\x2f\xfd": "zstd-compressed", b"\xd0\xcf\x11\xe0": "an old Office document", b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file", b"SQLite format 3": "an SQLite database", b"\x7fELF": "a program",
    b"ARROW1": "an Arrow IPC file", b"\xff\xfe": "UTF-16 text", b"\xfe\xff": "UTF-16 text",
}  # fmt: skip
UNFINISHED = (".tmp", ".part", ".partial", ".filepart", ".crdownload")
_ASKED = "expected CSV, Parquet or JSON Lines"
_LETTERS = str.maketrans({
    "ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "æ": "ae", "ø": "oe", "œ": "oe", "ł": "l",
    "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ẞ": "SS", "Æ": "Ae", "Ø": "Oe", "Œ": "Oe", "Ł": "L",
})  # fmt: skip


def identifier(name: str) -> str:
    """Return ``name`` as a column name of the platform: ``[A-Za-z_][A-Za-z0-9_]*``.

    Umlauts are spelled out and letters lose their accents. Runs of other characters become one underscore; a leading
    digit gets one in front; ``row_id`` and ``split``, which the platform makes itself, get one behind.
    """
    name = _without_accents(name)
    plain = re.sub(r"[^A-Za-z0-9_]+", "_", name.strip()).strip("_") if not name.isidentifier() else name
    plain = re.sub(r"[^A-Za-z0-9_]", "_", plain) or "column"
    if plain[0].isdigit():
        plain = f"_{plain}"
    return f"{plain}_" if plain in {"row_id", "split"} else plain


def _without_accents(name: str) -> str:
    spelled = unicodedata.normalize("NFC", name).translate(_LETTERS)
    return "".join(ch for ch in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(ch))


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a source names, not opened yet. ``modified`` is UTC, None where the store does not say."""

    uri: str
    num_bytes: int
    modified: datetime | None


def discover(source: Source, data_dir: str | Path | None) -> list[SourceFile]:
    """Return the files of ``source`` in name order, each opened once to learn its format, header and digest.

    Raises InputError for a path that matches nothing, an empty file, a file of another format, a file without a header
    or with two columns of one name.
    """
    return describe_all(find(source.path, data_dir), source.format)


def describe_all(found: Iterable[Found], declared: Format = Format.auto) -> list[SourceFile]:
    """Open each file once. Raises InputError as ``discover`` does."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda one: describe(one.uri, declared), found))


def describe(uri: str, declared: Format = Format.auto) -> SourceFile:
    """Open one file and return what it is. Raises InputError as ``discover`` does."""
    shown = told(uri)
    fs, path = filesystem(uri)
    try:
        return _described(fs, path, shown, "" if shown == uri else uri, declared)
    except OSError as error:
        raise _unreadable(shown, error) from error


def _unreadable(uri: str, error: OSError) -> RaysaasError:
    if "NETWORK_CONNECTION" in str(error) or isinstance(error, ConnectionError | TimeoutError):
        return Unavailable(f"The store of {uri} does not answer ({error}). Try again later.")
    return InputError(f"{uri} cannot be read ({error}). Check the path and your rights.")


def _described(fs: pafs.FileSystem, path: str, uri: str, place: str, declared: Format) -> SourceFile:
    info = fs.get_file_info(path)
    if info.type != pafs.FileType.File:
        raise InputError(f"{uri}: no such file. Check the path.")
    if info.size == 0:
        raise InputError(f"{uri} is empty (0 bytes): {_ASKED} with at least one row.")
    with fs.open_input_stream(path) as stream:
        head = stream.read(1 << 20)
    kind = _format(uri, head, declared)
    digest, utf8 = _digest(fs, path, text=kind is not Format.parquet)
    file = SourceFile(uri, kind, digest, info.size, encoding="utf8" if utf8 else "latin1", place=place)
    if not utf8:
        _LOG.warning("%s is not UTF-8: read as Latin-1.", uri)
    return _with_header(file, head)


def read(file: SourceFile, max_rows: int | None = None) -> pa.Table:
    """Return the rows of one file under its own column names.

    CSV and JSON Lines columns are strings as written, Parquet columns have the file's types. Rows that are not rows
    (wrong number of fields, malformed JSON) are left out.
    """
    tables, num_rows = [], 0
    for part in split(file, part_bytes=32 << 20):
        for block in blocks(part):
            tables.append(block.table)
            num_rows += block.table.num_rows
            if max_rows is not None and num_rows >= max_rows:
                return pa.concat_tables(tables).slice(0, max_rows)
    if not num_rows:
        raise InputError(f"{file.uri} has no readable row.")
    return pa.concat_tables(tables)


def find(path: str, data_dir: str | Path | None, *, missing_ok: bool = False) -> list[Found]:
    """List what ``path`` (a file, a directory, a glob, a URI) names, in name order, without opening anything.

    Of directories and globs, names that a writer uses until a file is complete are left out: those that begin with a
    dot or end in one of ``UNFINISHED``. Raises InputError when nothing is there, unless ``missing_ok``.
    """
    if not path:
        raise InputError("The source has no path. Set use_case.sources.<source>.path to a file, a glob or a URI.")
    if is_uri(path):
        bare, options = parted(path)
        fixed = re.split(r"[*?\[]", bare)[0]
        folder = fixed.rpartition("/")[0] if fixed != bare else bare
        fs, root, pattern = *filesystem(folder + options), None
        if fixed != bare:
            root, pattern = root + fixed[len(folder) :], root + bare[len(folder) :]
        prefix = authority(bare) if not path.startswith("file:") else ""
        hint = "Check the path."
    else:
        full = Path(data_dir or ".").expanduser() / Path(path).expanduser()
        fs, root, prefix, options = pafs.LocalFileSystem(), str(full.absolute()), "", ""
        pattern = root if re.search(r"[*?\[]", root) and not full.exists() else None
        root = re.split(r"[*?\[]", root)[0] if pattern else root
        hint = _where_to_look(Path(path).expanduser(), data_dir)
    try:
        infos = _list(fs, root, pattern)
    except OSError as error:
        raise _unreadable(told(path), error) from error
    if not infos and not missing_ok:
        raise InputError(f"{told(prefix)}{_nothing(fs, root, pattern)} {hint}")
    return [Found(f"{prefix}{info.path}{options}", info.size or 0, info.mtime) for info in infos]


def _nothing(fs: pafs.FileSystem, root: str, pattern: str | None) -> str:
    if pattern is not None:
        return f"{pattern}: nothing matches."
    if fs.get_file_info(root).type == pafs.FileType.Directory:
        return f"{root}: a directory without a data file ({', '.join(_SUFFIXES)})."
    return f"{root}: no such file or directory."


def _where_to_look(path: Path, data_dir: str | Path | None) -> str:
    if path.is_absolute():
        return "Check the path."
    return f"Check the path, or data_dir={str(data_dir)!r}." if data_dir else "Check the path, or set data_dir=FOLDER."


def _list(fs: pafs.FileSystem, root: str, pattern: str | None) -> list[pafs.FileInfo]:
    if pattern is None and (info := fs.get_file_info(root)).type == pafs.FileType.File:
        return [info]
    base = root if pattern is None else root.rpartition("/")[0] or "/"
    recursive = pattern is None or "**" in pattern or "/" in pattern[len(base) + 1 :]
    infos = fs.get_file_info(pafs.FileSelector(base, recursive=recursive, allow_not_found=True))
    files = sorted((i for i in infos if i.type == pafs.FileType.File), key=lambda info: info.path)
    files = [i for i in files if not i.base_name.startswith(".") and not i.base_name.lower().endswith(UNFINISHED)]
    if pattern is not None:
        return [i for i in files if _matches(i.path, pattern)]
    return [i for i in files if _is_data(PurePosixPath(i.path).relative_to(base))]


def _is_data(path: PurePosixPath) -> bool:
    return path.suffix.lower() in _SUFFIXES and not any(part.startswith((".", "_")) for part in path.parts)


def _matches(name: str, pattern: str) -> bool:
    if "**" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("**/", "*"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _format(uri: str, head: bytes, asked: Format) -> Format:
    named = asked if asked is not Format.auto else _SUFFIXES.get(PurePosixPath(uri).suffix.lower(), Format.auto)
    foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), None)
    if foreign is None and not head.startswith(b"PAR1") and b"\0" in head[:8192]:
        foreign = "binary data"
    if foreign is not None:
        raise InputError(f"{uri} is {foreign} by its first bytes: {_ASKED}{_next_step(foreign)}.")
    first = head.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    seen = Format.parquet if head.startswith(b"PAR1") else Format.jsonl if first == b"{" else Format.csv
    if named is Format.jsonl and first == b"[":
        raise InputError(f"{uri} is one JSON array: expected JSON Lines, one object per line without brackets.")
    if named is not seen and (named is Format.jsonl or (named is not Format.auto and Format.parquet in {named, seen})):
        raise InputError(f"{uri} should be {named} but its first bytes are those of {seen}: set format, or rename it.")
    return seen if named is Format.auto else named


def _next_step(foreign: str) -> str:
    if foreign.startswith("UTF-16"):
        return "; save it as UTF-8"
    return "; decompress it first" if "compressed" in foreign or "zip" in foreign else ""


def _digest(fs: pafs.FileSystem, path: str, *, text: bool) -> tuple[str, bool]:
    digest, decoder, utf8 = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")(), True
    with fs.open_input_stream(path) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            if text and utf8:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    utf8 = False
    return digest.hexdigest(), utf8


def _with_header(file: SourceFile, head: bytes) -> SourceFile:
    if file.format is Format.parquet:
        return _unique_names(parquet_header(file))
    file = csv_header(file, head) if file.format is Format.csv else jsonl_header(file, head)
    if file.body >= file.num_bytes:
        raise InputError(f"{file.uri} has a header and no rows: {_ASKED} with at least one row.")
    return _unique_names(file)


def _unique_names(file: SourceFile) -> SourceFile:
    twice = sorted({name for name in file.header if file.header.count(name) > 1})
    if twice:
        raise InputError(f"{file.uri} has two columns named {twice[0]!r}: give each column a name of its own.")
    return file
