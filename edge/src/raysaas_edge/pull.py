"""The current bundle to this site: from a folder or a URL, verified whole before it replaces what is there."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import httpx

from raysaas.errors import CorruptBundle, NotFound, Unavailable
from raysaas.models import bundle

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_MAX_BYTES = 512_000_000
_CURRENT = "current"


def pull(
    source: str, home: Path, *, digest: str | None = None, key: str | None = None, timeout_s: float = 30.0
) -> Path:
    """Fetch the bundle at ``source`` into ``home`` and make it current; returns its folder.

    Raises CorruptBundle when anything does not match its digest (the current bundle stays), Unavailable when the source
    cannot be reached, NotFound when it holds no bundle.
    """
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".pull-") as scratch:
        part = Path(scratch) / "bundle"
        if source.startswith(("http://", "https://")):
            _download(source.rstrip("/"), part, key, timeout_s)
        else:
            _copy(Path(source.removeprefix("file://")), part)
        loaded = bundle.load(part, digest)
        target = home / loaded.digest[:16]
        if not target.exists():
            part.rename(target)
    _point(home, target)
    return target


def has_current(home: Path) -> bool:
    """Whether any bundle was pulled."""
    return (home / _CURRENT).exists()


def current(home: Path) -> Path:
    """Folder of the current bundle; NotFound before the first pull."""
    if not has_current(home):
        raise NotFound(f"No bundle was pulled into {home} yet: check `bundle` and run `raysaas-edge pull`.")
    return home / (home / _CURRENT).read_text().strip()


def _point(home: Path, target: Path) -> None:
    part = home / f"{_CURRENT}.part"
    part.write_text(target.name)
    part.replace(home / _CURRENT)


def _copy(source: Path, part: Path) -> None:
    if not source.is_dir():
        raise NotFound(f"There is no bundle folder at {source}.")
    shutil.copytree(source, part)


def _download(url: str, part: Path, key: str | None, timeout_s: float) -> None:
    part.mkdir()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(timeout=timeout_s, headers=headers, follow_redirects=False) as client:
            for name in (bundle.MANIFEST, bundle.IDENTITY):
                _fetch(client, url, name, part, 1_000_000)
            for name, entry in _files(part / bundle.MANIFEST).items():
                _fetch(client, url, name, part, int(entry["bytes"]))
    except httpx.TransportError as error:
        raise Unavailable(f"{url} cannot be reached: {type(error).__name__}: {error}") from error


def _files(manifest: Path) -> dict[str, dict[str, int]]:
    try:
        files: dict[str, dict[str, int]] = json.loads(manifest.read_bytes())["files"]
        too_large = sum(int(entry["bytes"]) for entry in files.values()) > _MAX_BYTES
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"The manifest is not one of a bundle: {error}") from error
    strange = [name for name in files if not _PLAIN.fullmatch(name)]
    if strange or too_large:
        found = strange[:3] or "too many bytes"
        raise CorruptBundle(f"The manifest names {found}: expected plain names, {_MAX_BYTES} bytes in all.")
    return files


def _fetch(client: httpx.Client, url: str, name: str, part: Path, max_bytes: int) -> None:
    with client.stream("GET", f"{url}/{name}") as answer:
        if answer.status_code == 404:
            raise NotFound(f"There is no {name} at {url}.")
        if answer.status_code != 200:
            raise Unavailable(f"{url}/{name} answered {answer.status_code}.")
        size = 0
        with (part / name).open("wb") as file:
            for chunk in answer.iter_bytes():
                size += len(chunk)
                if size > max_bytes:
                    raise CorruptBundle(f"{url}/{name} is larger than the {max_bytes} bytes that were announced.")
                file.write(chunk)
