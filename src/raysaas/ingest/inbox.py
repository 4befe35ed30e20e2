"""Extracts: rows that came from no file (a database, the journal of events), laid down as files until their commit.

An extract is a folder below the warehouse. Its manifest is written last, so a folder without one is what a killed run
left and is removed; one with it is taken up again as it is. Equal files are an equal batch, so neither accepted nor
refused rows of a run that died half-way are written twice, whatever has come into the source since.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raysaas.errors import Unavailable
from raysaas.ingest.formats import SourceFile
from raysaas.use_case import Format

_MANIFEST = "extract.json"


@dataclass(frozen=True, slots=True)
class Extract:
    """Rows as files. ``basis`` says what was extracted, and from where on; ``properties`` go into the commit."""

    basis: str
    files: tuple[SourceFile, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Inbox:
    """The folder of one kind of extract of one source."""

    def __init__(self, warehouse: str, target: str, kind: str) -> None:
        self.uri = f"{warehouse}/inbox/{target}/{kind}"
        self._fs, self._root = pafs.FileSystem.from_uri(self.uri)

    def waiting(self) -> Extract | None:
        """The extract that an earlier run completed and did not commit; what is incomplete is removed."""
        if self._fs.get_file_info(f"{self._root}/{_MANIFEST}").type != pafs.FileType.File:
            self.clear()
            return None
        body = json.loads(self.read(_MANIFEST))
        files = tuple(_file(one) for one in body["files"])
        return Extract(body["basis"], files, body["properties"], tuple(body["warnings"]))

    def keep(self, extract: Extract) -> Extract:
        """Complete ``extract``, whose files were written with ``sink``."""
        self.write(_MANIFEST, json.dumps(asdict(extract)).encode())
        return extract

    def place(self, name: str) -> str:
        """URI of a file of the extract."""
        return f"{self.uri}/{name}"

    def sink(self, name: str) -> pa.NativeFile:
        """A file of the extract, open for writing. Raises Unavailable."""
        try:
            self._fs.create_dir(self._root, recursive=True)
            return self._fs.open_output_stream(f"{self._root}/{name}")
        except OSError as error:
            raise Unavailable(f"The inbox {self.uri} cannot be written ({error}).") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        with self.sink(name) as file:
            file.write(data)

    def read(self, name: str) -> bytes:
        """The bytes of a small file."""
        with self._fs.open_input_stream(f"{self._root}/{name}") as file:
            return bytes(file.read())

    def keep_only(self, names: set[str]) -> None:
        """Remove the other files of the folder."""
        for info in self._fs.get_file_info(pafs.FileSelector(self._root, allow_not_found=True)):
            if info.base_name not in names:
                self._fs.delete_file(info.path)

    def clear(self) -> None:
        """Remove the extract."""
        if self._fs.get_file_info(self._root).type == pafs.FileType.Directory:
            self._fs.delete_dir(self._root)


def _file(body: dict[str, Any]) -> SourceFile:
    paths = tuple(tuple(path) for path in body["paths"])
    made = SourceFile(**{**body, "format": Format(body["format"])})
    return replace(made, header=tuple(body["header"]), paths=paths)
