"""The model versions of one replica: which are loaded, and which of them answer now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raysaas.errors import CorruptBundle, NotFound
from raysaas.models import bundle
from raysaas.models.bundle import Bundle
from raysaas.records import Arm

_KEPT = 4  # bundles held in memory: those of a release and of the one before it, so that a roll-back loads nothing


@dataclass(frozen=True, slots=True)
class Version:
    """A verified and warmed bundle with its version number, and the hash of the feature service it reads."""

    number: int
    bundle: Bundle
    features: str = ""


@dataclass(frozen=True, slots=True)
class Answering:
    """The versions that answer at one moment; replaced as a whole, never changed.

    ``experiment`` names the pair under comparison: it stays when only the share changes, so arms stay sticky.
    """

    sequence: int
    champion: Version
    challenger: Version | None
    shadow: Version | None
    share: float
    experiment: str

    def versions(self) -> list[Version]:
        """Those that answer or watch."""
        return [version for version in (self.champion, self.challenger, self.shadow) if version]


class Versions:
    """Loads what a release names, verified and warmed, before anything of it answers."""

    def __init__(self) -> None:
        self._loaded: dict[str, Bundle] = {}

    def prepare(self, release: Mapping[str, Any]) -> Answering:
        """Load every arm of ``release`` (the application's ``user_config``).

        Raises
        ------
        CorruptBundle
            A bundle is missing or does not match its digest; the message names it. What answered before still does.
        """
        champion = self._version(release["champion"])
        challenger = self._version(release["challenger"]) if release.get("challenger") else None
        shadow = self._version(release["shadow"]) if release.get("shadow") else None
        share = float(release.get("challenger_share", 0.0)) if challenger else 0.0
        experiment = f"{champion.number}:{challenger.number if challenger else ''}"
        return Answering(int(release["sequence"]), champion, challenger, shadow, share, experiment)

    def _version(self, body: Mapping[str, Any]) -> Version:
        arm = Arm(version=int(body["version"]), uri=str(body["uri"]), digest=str(body["digest"]))
        found = self._loaded.pop(arm.digest, None) or _load(arm)
        self._loaded[arm.digest] = found
        while len(self._loaded) > _KEPT:
            self._loaded.pop(next(iter(self._loaded)))
        return Version(arm.version, found, str(body.get("features", "")))


def _load(arm: Arm) -> Bundle:
    try:
        loaded = bundle.load(arm.uri, arm.digest)
    except (OSError, CorruptBundle, NotFound) as error:
        raise CorruptBundle(f"Version {arm.version} ({arm.uri}) cannot be loaded: {error}") from error
    blank = {
        f.name: np.array([None], object) if f.kind == "category" else np.array([np.nan]) for f in loaded.encoder.fields
    }
    for _ in range(3):
        loaded.predict(blank)
    return loaded
