"""Where a name still stands in plain files: pages, logs, records of runs."""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

_TABULAR = {".parquet", ".avro"}  # compressed: looked into by those who know their rows


def traces(root: Path, word: re.Pattern[str]) -> list[Path]:
    """Files below ``root`` whose bytes hold ``word`` in UTF-8, sorted; compressed tables are not looked into."""
    pattern = re.compile(word.pattern.encode())
    return [path for path in _files(root) if path.suffix not in _TABULAR and _holds(path, pattern)]


def blot(path: Path, word: re.Pattern[str]) -> int:
    """Overwrite ``word`` in a text file with ``x``, in place, so that whoever appends to it goes on; how often."""
    spans = [match.span() for match in re.finditer(word.pattern.encode(), path.read_bytes())]
    with path.open("r+b") as file:
        for start, end in spans:
            file.seek(start)
            file.write(b"x" * (end - start))
    return len(spans)


def _files(root: Path) -> Iterator[Path]:
    return (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())


def _holds(path: Path, pattern: re.Pattern[bytes]) -> bool:
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return pattern.search(data) is not None
    except FileNotFoundError:
        return False
