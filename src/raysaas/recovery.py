"""After a head was lost: what was deployed on it is deployed again, at the release that the ledger holds."""

import sys
from pathlib import Path

from raysaas import entry
from raysaas.errors import RaysaasError
from raysaas.settings import Settings


def restore(settings: Settings) -> dict[str, int]:
    """Deploy every use case of this home that was deployed before; its champion's version by use case.

    One that cannot be deployed is told on stderr and does not keep the others down.
    """
    restored: dict[str, int] = {}
    for path in sorted(Path(settings.storage.home, "deployed").glob("*.json")):
        from raysaas import lifecycle  # takes a second, and a new installation has nothing to restore

        try:
            release = lifecycle.restore(entry.saved(path))
        except RaysaasError as error:
            sys.stderr.write(f"{path.stem} is not up again: {error}\n")
        else:
            restored |= {release.use_case: release.champion.version} if release else {}
    return restored
