"""Which arm answers: sticky, random-looking, and the same in every replica. Pure.

An entity's place on [0, 1) is a hash of (use case, tenant, entity, experiment); the challenger gets those below its
share. A share that grows therefore only adds entities to the challenger, and none changes sides twice.
"""

from enum import StrEnum
from hashlib import blake2b

_SPAN = float(2**64)


class ArmName(StrEnum):
    """The roles a version can have in a release."""

    champion = "champion"
    challenger = "challenger"
    shadow = "shadow"


def place(use_case: str, tenant: str, key: str, experiment: str) -> float:
    """The position of ``key`` (an entity, or a decision id where there is none) on [0, 1)."""
    # Lengths go in front so that no two different quadruples hash the same bytes.
    text = f"{len(use_case)}:{len(tenant)}:{len(key)}:{use_case}{tenant}{key}{experiment}"
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big") / _SPAN


def pick(share: float, use_case: str, tenant: str, key: str, experiment: str) -> ArmName:
    """The arm for ``key`` when the challenger gets ``share`` (0 to 1) of the traffic."""
    if share <= 0.0:
        return ArmName.champion
    return ArmName.challenger if place(use_case, tenant, key, experiment) < share else ArmName.champion
