"""Journal lines taken out of closed segments: spaces of equal length take their place.

Readers of a journal hold their place in a segment in bytes, so a segment must not get shorter; they skip blank lines.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson

from raysaas.stores.journal import close_orphans, only_shipper

Gone = Callable[[str, Mapping[str, Any]], bool]


def redact(root: str | Path, use_case: str, gone: Gone) -> int:
    """Blank the lines for which ``gone(kind, record)`` in all segments but open ones; returns how many.

    A segment is replaced at once or not at all, and keeps its time, by which old ones are dropped.
    """
    folder = Path(root) / use_case
    if not folder.exists():
        return 0
    with only_shipper(folder):
        for part in folder.rglob(".*.redacted"):
            part.unlink()
        close_orphans(folder, "*")
        return sum(_redact(path, gone) for path in _segments(folder))


def records(root: str | Path, use_case: str, kind: str) -> list[dict[str, Any]]:
    """All records of a kind in segments that are closed."""
    folder = Path(root) / use_case
    if not folder.exists():
        return []
    with only_shipper(folder):
        close_orphans(folder, kind)
        found = [path.read_bytes().splitlines() for path in _segments(folder) if _kind(path) == kind]
    return [orjson.loads(line) for lines in found for line in lines if line.strip()]


def _segments(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.jsonl"), *folder.glob("shipped/*.jsonl")])


def _kind(path: Path) -> str:
    return path.stem.rsplit("-", 2)[0]


def _redact(path: Path, gone: Gone) -> int:
    kind, lines = _kind(path), path.read_bytes().splitlines(keepends=True)
    bad = [i for i, line in enumerate(lines) if line.strip() and gone(kind, orjson.loads(line))]
    if not bad:
        return 0
    for i in bad:
        lines[i] = b" " * (len(lines[i]) - 1) + b"\n"
    part, before = path.with_name(f".{path.name}.redacted"), path.stat()
    part.write_bytes(b"".join(lines))
    os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
    part.chmod(before.st_mode)
    part.replace(path)
    return len(bad)
