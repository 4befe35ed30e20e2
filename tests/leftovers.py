"""Where bytes of a name are left: in files as they are, and in what compressed ones decode to."""

import json
import sqlite3
from pathlib import Path

import pyarrow.parquet as pq
from pyiceberg.avro.file import AvroFile
from pyiceberg.io.pyarrow import PyArrowFileIO

BOUND_CHARS = 15  # Iceberg keeps 16 of the least and the greatest text of a file, and raises the last of the greatest


def leftovers(root: Path, name: str) -> list[str]:
    """Paths below ``root`` that hold ``name``, or in manifests the beginning of it that bounds keep."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return [str(path.relative_to(root)) for path in files if _raw(path, name) or _decoded(path, name)]


def _raw(path: Path, name: str) -> bool:
    data = path.read_bytes()
    forms = [name, json.dumps(name)[1:-1], json.dumps(json.dumps(name))[3:-3]]
    return any(form.encode() in data for form in forms)


def _decoded(path: Path, name: str) -> bool:
    if path.suffix == ".parquet":
        return name in str(pq.read_table(path).to_pylist()) or name in str(pq.read_metadata(path).to_dict())
    if path.suffix == ".avro":
        with AvroFile(PyArrowFileIO().new_input(str(path))) as records:
            start = repr(name[:BOUND_CHARS].encode())[2:-1]
            return any(start in text or name in text for text in map(str, records))
    if path.suffix == ".db" and path.read_bytes()[:6] == b"SQLite":
        with sqlite3.connect(path) as database:
            return any(name in line for line in database.iterdump())
    return False
