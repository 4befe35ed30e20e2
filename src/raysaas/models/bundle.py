"""A model version as a folder of plain files: no pickle, every byte under a digest.

    encoder.json  profile.json                     what went in, and what it looked like
    weights.safetensors  model.onnx   |  model.txt  a network | trees
    manifest.json                                  task, labels, and SHA-256 and size of each file above
    manifest.sha256                                digest of manifest.json: the version's identity

Digests are checked before any loader sees a byte. Without an expected digest that finds damage, not forgery; whoever
needs the latter passes the digest that the registry or the release recorded.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysaas.errors import CorruptBundle, NotFound, Terminal
from raysaas.models.encode import Encoder
from raysaas.models.fields import Columns
from raysaas.models.profile import Profile
from raysaas.models.scorers import GraphScorer, Prediction, Scorer, TreeScorer, decide, score
from raysaas.records import Family, Task

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Bundle", "Prediction", "decide", "load", "read_manifest", "save"]

FORMAT = 1
MANIFEST, IDENTITY = "manifest.json", "manifest.sha256"
_COMMON = {"encoder.json", "profile.json"}
_NETWORK, _TREES = {"weights.safetensors", "model.onnx"}, {"model.txt"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bundle:
    """A verified, loaded model version. ``predict`` may be called from several threads."""

    path: Path
    digest: str
    task: Task
    labels: list[str]
    family: Family
    encoder: Encoder
    profile: Profile
    manifest: Mapping[str, Any]
    _scorer: Scorer
    _weights: bytes | None

    def predict(self, columns: Columns) -> Prediction:
        """Answers for n rows of raw columns, as ``Encoder.rows`` makes them."""
        num_rows = len(columns[self.encoder.fields[0].name])
        return decide(self.task, self.labels, score(self._scorer, columns, num_rows))

    @property
    def backend(self) -> str:
        """What computes now: ``onnxruntime/cpu``, ``lightgbm/cpu``, or ``torch/DEVICE`` (see :func:`load`)."""
        return self._scorer.backend

    def weights(self) -> dict[str, NDArray[Any]]:
        """The network's tensors by torch's names; raises Terminal for trees."""
        if self._weights is None:
            raise Terminal(f"Bundle {self.digest[:16]} holds {self.family} and has no network weights.")
        from safetensors.numpy import load

        return dict(load(self._weights))


def save(
    out: Path,
    *,
    encoder: Encoder,
    task: Task,
    labels: Sequence[str],
    family: Family,
    profile: Profile,
    network: "nn.Module | None" = None,
    trees: str | None = None,
    target: tuple[float, float] = (0.0, 1.0),
    meta: Mapping[str, Any] | None = None,
) -> str:
    """Write a bundle folder at once or not at all, replacing ``out``; returns its digest.

    ``labels``: [negative, positive] (binary), in class order (multiclass), empty (regression). Give ``network`` or
    ``trees`` (LightGBM's text). ``target`` is the (mean, standard deviation) that predictions are scaled back with.
    """
    if (network is None) == (trees is None):
        raise Terminal("A bundle holds one model: give save() either network= or trees=.")
    files = {"encoder.json": _json(encoder.to_json()), "profile.json": _json(profile.to_json())}
    if network is not None:
        files |= _network_files(network, encoder, task, target)
    elif trees is not None:
        files["model.txt"] = trees.encode()
    manifest = _json({
        "format": FORMAT, "task": str(task), "labels": list(labels), "family": str(family), "target": list(target),
        "files": {name: {"sha256": _sha(data), "bytes": len(data)} for name, data in files.items()},
        "meta": dict(meta or {}),
    })  # fmt: skip
    digest = _sha(manifest)
    _write(Path(out), {**files, MANIFEST: manifest, IDENTITY: digest.encode()})
    return digest


def load(path: str | Path, digest: str | None = None, device: str | None = None) -> Bundle:
    """Verify and load the bundle folder at ``path`` (local, or a ``file://`` URI).

    With ``device`` (torch's name of one, such as ``cuda``) a network runs there, in torch; trees do not.
    Raises NotFound when there is no such folder, CorruptBundle when a file is missing, altered or not listed, or when
    the manifest is not the one that ``digest`` names.
    """
    folder = Path(str(path).removeprefix("file://"))
    if not folder.is_dir():
        raise NotFound(f"There is no model bundle at {folder}.")
    manifest, identity = _verified_manifest(folder, digest)
    files = _verified_files(folder, manifest)
    task = Task(manifest["task"])
    encoder = Encoder.from_json(json.loads(files["encoder.json"]))
    mean, std = manifest["target"]
    scorer = _scorer(files, encoder, task, (mean, std), device)
    return Bundle(
        path=folder, digest=identity, task=task, labels=list(manifest["labels"]), family=Family(manifest["family"]),
        encoder=encoder, profile=Profile.from_json(json.loads(files["profile.json"])), manifest=manifest,
        _scorer=scorer, _weights=files.get("weights.safetensors"),
    )  # fmt: skip


def read_manifest(path: str | Path, digest: str | None = None) -> Mapping[str, Any]:
    """The manifest of the bundle at ``path``, verified as by :func:`load`, without its model."""
    return _verified_manifest(Path(str(path).removeprefix("file://")), digest)[0]


def _network_files(network: "nn.Module", encoder: Encoder, task: Task, target: tuple[float, float]) -> dict[str, bytes]:
    from safetensors.numpy import save as to_safetensors

    from raysaas.models.network import to_onnx

    state = network.state_dict()
    tensors = {name: np.ascontiguousarray(tensor.detach().cpu().numpy()) for name, tensor in state.items()}
    return {"weights.safetensors": to_safetensors(tensors), "model.onnx": to_onnx(network, encoder.width, task, target)}


def _scorer(
    files: Mapping[str, bytes], encoder: Encoder, task: Task, target: tuple[float, float], device: str | None
) -> Scorer:
    if "model.onnx" not in files:
        return TreeScorer(files["model.txt"].decode(), encoder, task, target)
    on_cpu = partial(GraphScorer, files["model.onnx"], encoder, task)
    if device is None:
        return on_cpu()
    from raysaas.models.gpu import TorchScorer

    return TorchScorer(files["weights.safetensors"], encoder, task, target, device, on_cpu)


def _verified_manifest(folder: Path, digest: str | None) -> tuple[dict[str, Any], str]:
    data, recorded = _read(folder, MANIFEST), _read(folder, IDENTITY)
    found = _sha(data)
    if found.encode() != recorded:
        raise CorruptBundle(f"{folder}/{MANIFEST} is {found[:16]}, not what {IDENTITY} says: restore the bundle.")
    if digest is not None and found != digest:
        raise CorruptBundle(f"The bundle at {folder} is {found[:16]}, expected {digest[:16]}: it is another version.")
    manifest = json.loads(data)
    if manifest.get("format") != FORMAT:
        raise CorruptBundle(f"{folder} has bundle format {manifest.get('format')!r}: this release reads {FORMAT}.")
    return manifest, found


def _verified_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    listed = set(manifest["files"])
    if listed not in (_COMMON | _NETWORK, _COMMON | _TREES):
        raise CorruptBundle(f"{folder}/{MANIFEST} lists {sorted(listed)}: that is neither a network nor trees.")
    present = {entry.name for entry in os.scandir(folder)}
    if strange := present - listed - {MANIFEST, IDENTITY}:
        raise CorruptBundle(f"{folder} has files that its manifest does not list: {', '.join(sorted(strange))}.")
    return {name: _verified(folder, name, entry) for name, entry in manifest["files"].items()}


def _verified(folder: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    data = _read(folder, name)
    if len(data) != entry["bytes"] or _sha(data) != entry["sha256"]:
        raise CorruptBundle(f"{folder}/{name} does not match its digest in {MANIFEST}: restore the bundle.")
    return data


def _read(folder: Path, name: str) -> bytes:
    try:
        # No links: what was verified must be what lies in the folder.
        with os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read()
    except OSError as error:
        raise CorruptBundle(f"{folder}/{name} cannot be read ({error.strerror}): restore the bundle.") from error


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    new, old = folder / "new", folder / "old"
    try:
        new.mkdir()
        for name, data in files.items():
            with (new / name).open("wb") as file:
                file.write(data)
                os.fsync(file.fileno())
        if out.exists():
            # A folder cannot be replaced in one step: it steps aside, so that no reader sees half of each.
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, allow_nan=False, separators=(",", ":")).encode()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
