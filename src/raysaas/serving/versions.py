"""The model versions of one replica: which are loaded, and which of them answer now."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysaas.errors import CorruptBundle, NotFound
from raysaas.models import bundle, gpu
from raysaas.models.bundle import Bundle
from raysaas.records import Arm

logger = logging.getLogger(__name__)

_KEPT = 4  # bundles held in memory besides those that answer: a roll-back loads nothing
_WARM_ROWS, _WARM_ROWS_ON_GPU = (1, 1, 1), (1, 16, 256, 1000)  # a GPU loads its kernels by shape


@dataclass(frozen=True, slots=True)
class Version:
    """A verified and warmed bundle with its version number, and the hash of the feature service it reads."""

    number: int
    bundle: Bundle
    features: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A variant of the release: its name is the arm that decisions tell, its share its part of the traffic."""

    name: str
    share: float
    version: Version


@dataclass(frozen=True, slots=True)
class Answering:
    """The versions that answer at one moment; replaced as a whole, never changed.

    ``experiment`` is the salt of the split: it stays when only shares change, so arms stay sticky. ``tenants`` are the
    versions of tenants that have their own (:mod:`raysaas.serving.own_versions` holds those that are loaded), and
    ``services`` the hashes of all feature services that are read.
    """

    sequence: int
    champion: Version
    variants: tuple[Candidate, ...] = ()
    shadow: Version | None = None
    tenants: Mapping[str, Arm] = field(default_factory=dict)
    experiment: str = ""
    services: frozenset[str] = frozenset()

    def versions(self) -> list[Version]:
        """Those that answer or watch, without those of tenants."""
        return [self.champion, *(one.version for one in self.variants), *([self.shadow] if self.shadow else ())]


class Versions:
    """Loads what a release names, verified and warmed, before anything of it answers.

    With ``num_gpus`` networks go to the GPU that Ray gave to this process: ``device`` is torch's name of it, None for
    the CPU, and ``problem`` says why when there is none after all.
    """

    def __init__(self, num_gpus: float = 0.0) -> None:
        self._loaded: dict[str, Bundle] = {}
        why = gpu.claim(num_gpus) if num_gpus else None
        self.device = "cuda" if num_gpus and not why else None
        self.problem = f"serve.num_gpus is {num_gpus:g}, but {why}: the CPU answers." if why else None
        if self.problem:
            logger.warning(self.problem)

    def prepare(self, release: Mapping[str, Any]) -> Answering:
        """Load champion, variants and shadow of ``release`` (the application's ``user_config``).

        Raises
        ------
        CorruptBundle
            A bundle is missing or does not match its digest; the message names it. What answered before still does.
        """
        champion = self._version(release["champion"])
        variants = tuple(
            Candidate(str(one["name"]), float(one["share"]), self._version(one)) for one in release.get("variants", ())
        )
        shadow = self._version(release["shadow"]) if release.get("shadow") else None
        tenants = {tenant: _arm(body) for tenant, body in (release.get("tenants") or {}).items()}
        versions = [champion, *(one.version for one in variants), *([shadow] if shadow else ())]
        self._drop(_KEPT + len(versions))
        services = {one.features for one in versions} | {arm.features for arm in tenants.values()}
        experiment = str(release.get("experiment", ""))
        return Answering(int(release["sequence"]), champion, variants, shadow, tenants, experiment, frozenset(services))

    def _version(self, body: Mapping[str, Any]) -> Version:
        arm = _arm(body)
        found = self._loaded.pop(arm.digest, None) or load(arm, self.device)
        self._loaded[arm.digest] = found
        return Version(arm.version, found, arm.features)

    def _drop(self, num_kept: int) -> None:
        while len(self._loaded) > num_kept:
            self._loaded.pop(next(iter(self._loaded)))


def load(arm: Arm, device: str | None = None) -> Bundle:
    """The bundle of ``arm`` for ``device`` (as :func:`raysaas.models.bundle.load` takes it), verified and warmed.

    Raises CorruptBundle, naming the version, when it is not what was saved.
    """
    try:
        loaded = bundle.load(arm.uri, arm.digest, device)
    except (OSError, CorruptBundle, NotFound) as error:
        raise CorruptBundle(f"Version {arm.version} ({arm.uri}) cannot be loaded: {error}") from error
    for num in _WARM_ROWS_ON_GPU if device else _WARM_ROWS:
        loaded.predict(_blank(loaded, num))
    return loaded


def _blank(loaded: Bundle, num: int) -> dict[str, Any]:
    kinds = {field.name: field.kind for field in loaded.encoder.fields}
    missing = {True: np.full(num, None, object), False: np.full(num, np.nan)}
    return {name: missing[kind == "category"] for name, kind in kinds.items()}


def _arm(body: Mapping[str, Any]) -> Arm:
    number, uri, digest = int(body["version"]), str(body["uri"]), str(body["digest"])
    return Arm(version=number, uri=uri, digest=digest, features=str(body.get("features", "")))
