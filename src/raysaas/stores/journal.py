"""Append-only segments on local disk: what was answered, before it was answered; later shipped to Iceberg exactly once.

A writer owns ``<root>/<use_case>/<kind>-<writer>-<n>.open`` and holds a lock (flock) on it for as long as it lives; a
closed segment is renamed ``.jsonl``, a shipped one moves to ``shipped/``. One append is one ``write`` without fsync: it
survives ``kill -9`` of any process, not a power cut.
"""

import errno
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa

from raysaas.errors import Unavailable
from raysaas.stores.bounded import Bounded
from raysaas.stores.logs import as_table

_log = logging.getLogger(__name__)
KEEP_SHIPPED_S = 86_400.0
PART_BYTES = 64_000_000
# What the door adds to each event, under names that no sender can use: whose it is, and when it came.
TENANT, KNOWN_AT = "__tenant", "__known_at"
_SEGMENTS = "raysaas.segments"
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z


class Journal:
    """The one writer of one kind of record; safe to use from several threads of its process.

    With ``deadline_s`` nobody waits longer than that for a disk that hangs.
    """

    def __init__(
        self,
        root: str | Path,
        use_case: str,
        kind: str,
        *,
        segment_bytes: int = 8_000_000,
        segment_age_s: float = 5.0,
        deadline_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(root) / use_case
        self.segment_bytes, self.segment_age_s = segment_bytes, segment_age_s
        self._stem = f"{kind}-{int(time.time() * 1000):013x}{os.getpid():07x}{os.urandom(4).hex()}"
        self._clock, self._lock = clock, threading.Lock()
        self._bounded = Bounded(deadline_s, f"journal-{kind}") if deadline_s else None
        self._fd, self._path, self._num, self._opened = -1, Path(), 0, 0.0
        self._refusing = False
        self._size, self._before = 0, 0  # bytes of the open segment, and before its newest records

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write ``records`` as JSON lines, all of them or none.

        Raises
        ------
        Unavailable
            The disk is full, cannot be written or does not answer; nothing was kept, and a later call may succeed.
        """
        lines = b"".join([orjson.dumps(record, option=_OPTIONS) for record in records])
        try:
            self._call(partial(self._append, lines), self._take_back)
        except OSError as error:  # of which TimeoutError is one
            reason = error.strerror or "it does not answer"
            if not self._refusing:  # once, not once per request
                _log.error("The journal %s cannot be written: %s.", self.folder, reason)
            self._refusing = True
            raise Unavailable(
                f"The journal cannot be written ({reason}); nothing was kept. "
                "Try again; if this stays, the operator must free or remount its disk."
            ) from error
        if self._refusing:
            self._refusing = False
            _log.warning("The journal %s is written again.", self.folder)

    def _call(self, act: Callable[[], None], undo: Callable[[], None]) -> None:
        if self._bounded is not None:
            self._bounded.call(act, undo)
            return
        with self._lock:
            act()

    def _append(self, lines: bytes) -> None:
        if self._fd >= 0 and not os.fstat(self._fd).st_nlink:
            self._abandon()  # somebody deleted the folder: what is written there is lost
        if self._fd < 0:
            self._open()
        self._before = self._size
        written = os.write(self._fd, lines)
        self._size += written
        if written != len(lines):
            self._take_back()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._size >= self.segment_bytes:
            with suppress(OSError):  # the records are safe, and the next tick closes it
                self._close()

    def _take_back(self) -> None:
        """Blank the newest records, whose sender was told that nothing was kept; readers hold places, so no shorter."""
        length = self._size - self._before
        if self._fd < 0 or not length:
            return
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)  # one that appends cannot write over anything
            try:
                os.pwrite(fd, b" " * (length - 1) + b"\n", self._before)
            finally:
                os.close(fd)
        except OSError:
            self._abandon()  # half a line must stay the last one

    def _abandon(self) -> None:
        fd, self._fd = self._fd, -1
        with suppress(OSError):
            os.close(fd)

    def _open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        while True:
            self._num += 1
            self._path = self.folder / f"{self._stem}-{self._num:06d}.open"
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            # A shipper may have taken the new file for a dead writer's before it was locked.
            if self._path.exists():
                self._fd, self._size, self._before, self._opened = fd, 0, 0, self._clock()
                return
            os.close(fd)

    def rotate_if_due(self) -> None:
        """Close the open segment if it is older than ``segment_age_s``; call it about once a second."""
        if self._fd >= 0 and self._clock() - self._opened >= self.segment_age_s:
            self.rotate()

    def rotate(self) -> None:
        """Close the open segment, so that it can be shipped; the next append opens another.

        Raises OSError when the disk does not let it: the segment stays open, and a later call may succeed.
        """
        self._call(self._close, _nothing)

    close = rotate

    def _close(self) -> None:
        if self._fd < 0:
            return
        if os.fstat(self._fd).st_nlink:
            self._path.rename(self._path.with_suffix(".jsonl"))
        self._abandon()


def _nothing() -> None:
    """A closed segment stays closed, however long it took."""


def tail(
    root: str | Path, use_case: str, kind: str, offsets: Mapping[str, int], *, max_bytes: int = 32_000_000
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Read the complete lines after ``offsets`` of all segments, shipped ones included, oldest segment first.

    Returns the records and the new offsets, by segment stem so that neither closing nor shipping loses the place. At
    most about ``max_bytes`` are read: call again until no record comes.
    """
    records: list[dict[str, Any]] = []
    ahead: dict[str, int] = {}
    for stem, path in sorted(_segments(Path(root) / use_case, kind).items()):
        start = offsets.get(stem, 0)
        lines = _read_lines(path, start, max_bytes)
        ahead[stem] = start + len(lines)
        max_bytes -= len(lines)
        records += _loads(lines)
    return records, ahead


def _segments(folder: Path, kind: str) -> dict[str, Path]:
    # Open before closed before shipped: a segment that moves while we look is seen at least once.
    found: dict[str, Path] = {}
    for pattern in (f"{kind}-*.open", f"{kind}-*.jsonl", f"shipped/{kind}-*.jsonl"):
        found |= {path.stem: path for path in folder.glob(pattern)}
    return found


def _read_lines(path: Path, start: int, max_bytes: int) -> bytes:
    for place in _places(path):
        with suppress(FileNotFoundError):
            if max_bytes <= 0 or place.stat().st_size <= start:
                return b""
            with place.open("rb") as file:
                file.seek(start)
                data = file.read(max_bytes)
            return data[: data.rfind(b"\n") + 1]
    return b""


def _places(path: Path) -> tuple[Path, ...]:
    """Where a segment may have gone while we look: as it was, closed, shipped."""
    return path, path.with_suffix(".jsonl"), path.parent / "shipped" / f"{path.stem}.jsonl"


def _loads(lines: bytes) -> list[dict[str, Any]]:
    # A line that was taken out is blank, so that offsets stay right.
    records, damaged = [], 0
    for line in lines.splitlines():
        if line.strip():
            try:
                records.append(orjson.loads(line))
            except orjson.JSONDecodeError:  # a power cut leaves such lines; they must not hold up the others
                damaged += 1
    if damaged:
        _log.error("%d lines of a journal are damaged and were left out.", damaged)
    return records


class Appender(Protocol):
    """What the shipper needs of :class:`raysaas.stores.tables.Tables`."""

    def append(self, name: str, table: pa.Table, properties: dict[str, str] | None = None) -> int: ...

    def history(self, name: str) -> list[dict[str, Any]]: ...


def ship(root: str | Path, use_case: str, kind: str, tables: Appender, *, keep_s: float = KEEP_SHIPPED_S) -> int:
    """Append closed segments, and those whose writer died, to Iceberg ``log.<kind>`` exactly once; return the rows.

    Each commit names its segments in the snapshot's properties: a shipper killed between the commit and the move finds
    them there (in the ledger, when that version expired). Shipped segments stay for ``keep_s`` seconds, for readers of
    :func:`tail` that are behind.
    """
    folder = Path(root) / use_case
    if not folder.exists():
        return 0
    with only_shipper(folder):
        close_orphans(folder, kind)
        _drop_old(folder / "shipped", kind, keep_s)
        segments = sorted(folder.glob(f"{kind}-*.jsonl"))
        done = _shipped_names(tables, f"log.{kind}") if segments else set()
        retire(root, use_case, [path.stem for path in segments if path.stem in done])
        num = 0
        for part in _parts([path for path in segments if path.stem not in done]):
            stems = [path.stem for path in part]
            records = [record for path in part for record in _loads(_read_lines(path, 0, path.stat().st_size))]
            if records:
                tables.append(f"log.{kind}", as_table(records, kind), {_SEGMENTS: ",".join(stems)})
            retire(root, use_case, stems)
            num += len(records)
        return num


def _parts(segments: Sequence[Path]) -> Iterator[list[Path]]:
    """Segments of about ``PART_BYTES`` together: a day's backlog must not need a day's memory."""
    part, size = list[Path](), 0
    for path in segments:
        part.append(path)
        size += path.stat().st_size
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def events_kind(source: str) -> str:
    """The kind of the events of one source; ingest takes them, by ``complete`` and ``retire``, and not ``ship``."""
    return f"events__{source}"


def complete(root: str | Path, use_case: str, kind: str, *, keep_s: float = KEEP_SHIPPED_S) -> list[Path]:
    """Segments that nobody writes any more, oldest first; retired ones older than ``keep_s`` seconds are removed."""
    folder = Path(root) / use_case
    if not folder.exists():
        return []
    with only_shipper(folder):
        close_orphans(folder, kind)
        _drop_old(folder / "shipped", kind, keep_s)
        return sorted(folder.glob(f"{kind}-*.jsonl"))


def lines(segment: Path) -> list[bytes]:
    """The complete lines of a segment; what its writer was killed in the middle of was never acknowledged."""
    return [line for line in _read_lines(segment, 0, segment.stat().st_size).splitlines() if line.strip()]


def retire(root: str | Path, use_case: str, stems: Iterable[str]) -> None:
    """Move the segments of these stems to ``shipped/``; those that are there already stay."""
    folder = Path(root) / use_case
    for stem in stems:
        with suppress(FileNotFoundError):
            (folder / "shipped").mkdir(exist_ok=True)
            (folder / f"{stem}.jsonl").rename(folder / "shipped" / f"{stem}.jsonl")


def drop_taken(
    root: str | Path, use_case: str, kind: str, offsets: Mapping[str, int] | None, *, keep_s: float = 0.0
) -> None:
    """Remove closed segments of a kind that has one reader and is not shipped, where ``offsets``, which that reader
    has saved, are at their end; with None all of them. Those last written in the newest ``keep_s`` seconds stay."""
    folder, before = Path(root) / use_case, time.time() - keep_s
    close_orphans(folder, kind)
    for path in folder.glob(f"{kind}-*.jsonl"):
        left = b"" if offsets is None else _read_lines(path, offsets.get(path.stem, 0), path.stat().st_size)
        if not left and path.stat().st_mtime <= before:
            path.unlink()


def pending(root: str | Path, use_case: str, kind: str) -> list[dict[str, Any]]:
    """The records that were not shipped yet, those of open segments included, oldest segment first."""
    folder = Path(root) / use_case
    paths = sorted([*folder.glob(f"{kind}-*.open"), *folder.glob(f"{kind}-*.jsonl")])
    return [record for path in paths for record in _loads(_whole(path))]


def _whole(path: Path) -> bytes:
    for place in _places(path):
        with suppress(FileNotFoundError):
            data = place.read_bytes()
            return data[: data.rfind(b"\n") + 1]
    return b""


def await_closed(root: str | Path, use_case: str, kind: str, timeout_s: float) -> bool:
    """Wait until the segments that are open now can be shipped, because their writers closed them or died.

    False after ``timeout_s`` seconds: some writer still holds one.
    """
    waited, deadline = set((Path(root) / use_case).glob(f"{kind}-*.open")), time.monotonic() + timeout_s
    while waited := {path for path in waited if path.exists() and _is_held(path)}:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _is_held(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


@contextmanager
def only_shipper(folder: Path) -> Iterator[None]:
    """Hold the lock under which closed segments move or change."""
    with (folder / "ship.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def close_orphans(folder: Path, kind: str) -> None:
    """Close the segments of writers that died."""
    for path in folder.glob(f"{kind}-*.open"):
        # The lock is kept while renaming: a writer that comes in between finds its new file gone and takes another.
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rename(path.with_suffix(".jsonl"))


def _drop_old(folder: Path, kind: str, keep_s: float) -> None:
    before = time.time() - keep_s
    for path in folder.glob(f"{kind}-*.jsonl"):
        if path.stat().st_mtime < before:
            path.unlink()


def _shipped_names(tables: Appender, name: str) -> set[str]:
    return {stem for commit in tables.history(name) for stem in commit["properties"].get(_SEGMENTS, "").split(",")}
