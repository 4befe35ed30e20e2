"""Files below a table's folder that no version names: deleted where they hold rows that must go.

Whoever writes a table puts files there before the commit that names them, so a file is judged by what it holds. What
cannot be read yet is left while it is younger than ``SETTLED_S``.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pyiceberg.avro.file import AvroFile
from pyiceberg.io import FileIO
from pyiceberg.manifest import ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Snapshot

from raysaas.stores.survey import Found, Rows

SETTLED_S = 600.0
_LIST = "purge-"


def file_paths(io: FileIO, snapshots: Iterable[Snapshot]) -> set[str]:
    """URIs of the manifest lists, manifests and data files of these versions."""
    named: set[str] = set()
    for snapshot in snapshots:
        named.add(snapshot.manifest_list)
        for manifest in snapshot.manifests(io):
            if manifest.manifest_path not in named:
                entries = manifest.fetch_manifest_entry(io, discard_deleted=False)
                named |= {e.data_file.file_path for e in entries if e.status != ManifestEntryStatus.DELETED}
                named.add(manifest.manifest_path)
    return named


def intend(table: Table, doomed: Iterable[Snapshot]) -> None:
    """Write down, beside the table, the files of versions that its next commit drops."""
    uris = sorted(file_paths(table.io, doomed))
    with table.io.new_output(f"{table.location()}/metadata/{_LIST}{uuid.uuid4().hex}.json").create() as out:
        out.write(json.dumps(uris).encode())


def finish(table: Table) -> int:
    """Delete what ``intend`` wrote down, but for files that a version names; how many files."""
    fs, folder = pafs.FileSystem.from_uri(f"{table.location()}/metadata")
    lists = [info.path for info in below(fs, folder) if info.base_name.startswith(_LIST)]
    doomed: set[str] = set()
    for path in lists:
        with fs.open_input_stream(path) as file:
            doomed |= {_path(uri) for uri in json.loads(file.read())}
    if doomed:
        doomed -= {_path(uri) for uri in file_paths(table.io, table.snapshots())}
    for path in [*sorted(doomed), *lists]:
        drop(fs, path)
    return len(doomed)


def drop_metadata(table: Table) -> int:
    """Delete metadata files that neither the catalog nor its log of earlier ones names; how many.

    One that is young may be about to be committed by another writer.
    """
    fs, folder = pafs.FileSystem.from_uri(f"{table.location()}/metadata")
    named = {
        _path(uri) for uri in (table.metadata_location, *(one.metadata_file for one in table.metadata.metadata_log))
    }
    lost = [info for info in below(fs, folder) if info.path.endswith(".metadata.json") and info.path not in named]
    old = [info.path for info in lost if _age_s(info) > SETTLED_S]
    for path in old:
        drop(fs, path)
    return len(old)


def sweep(
    folder: str, rows: Rows, found: Found | None = None, table: Table | None = None
) -> tuple[int, tuple[str, ...]]:
    """Delete files below ``folder`` (a URI) that no version of ``table`` names and that hold matching rows, and the
    metadata of its earlier versions. Returns how many, and the paths of those that cannot be judged yet."""
    fs, path = pafs.FileSystem.from_uri(folder)
    named = {_path(uri) for uri in file_paths(table.io, table.snapshots())} if table else set()
    log = {_path(entry.metadata_file) for entry in table.metadata.metadata_log} if table else set()
    now = {_path(table.metadata_location)} if table else set()
    bad = frozenset(found.bad()) if found else frozenset()
    gone, unread = 0, []
    for info in below(fs, path):
        if info.path in named | now:
            continue
        verdict = _holds(fs, info, rows, bad, table.io if table else None)
        if info.path in log:
            # Nobody can commit on it any more; a reader that just looked it up gets a moment.
            verdict = _age_s(info) > SETTLED_S or _names(fs, info.path, rows)
        if verdict:
            drop(fs, info.path)
            gone += 1
        elif verdict is None:
            unread.append(info.path)
    return gone, tuple(unread)


def _holds(fs: pafs.FileSystem, info: pafs.FileInfo, rows: Rows, bad: frozenset[str], io: FileIO | None) -> bool | None:
    """Whether a file holds what must go; None when that cannot be said yet."""
    settled = _age_s(info) > SETTLED_S
    with suppress(OSError, pa.ArrowInvalid, ValueError):
        if info.extension == "parquet":
            known = set(pq.read_schema(info.path, filesystem=fs).names)
            columns = [name for name in rows.columns if name in known]
            return rows.count(pq.read_table(info.path, columns=columns, filesystem=fs)) > 0
        if info.extension == "avro" and io:
            with AvroFile(io.new_input(info.path)) as entries:
                return any(path in text for text in map(str, entries) for path in bad)
        if info.extension == "json":
            # Another writer may be about to point the catalog at metadata this young.
            return (True if settled else None) if _names(fs, info.path, rows) else False
    return True if settled else None


def _names(fs: pafs.FileSystem, path: str, rows: Rows) -> bool:
    with fs.open_input_stream(path) as file:
        text = file.read().decode()
    return bool(rows.clean(text) != text)


def _age_s(info: pafs.FileInfo) -> float:
    return (datetime.now(UTC) - info.mtime).total_seconds() if info.mtime else float("inf")


def below(fs: pafs.FileSystem, folder: str) -> Iterator[pafs.FileInfo]:
    """Every file below a folder, which need not exist."""
    infos = fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    return (info for info in infos if info.type == pafs.FileType.File)


def drop(fs: pafs.FileSystem, path: str) -> None:
    """Delete a file that may be gone already."""
    with suppress(FileNotFoundError):
        fs.delete_file(path)


def _path(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    # Of an object store's URI Arrow would make a client each time.
    return unquote(rest) if rest and scheme != "file" else str(pafs.FileSystem.from_uri(uri)[1])
