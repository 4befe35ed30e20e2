"""Which arm answers: sticky, random-looking, and the same in every replica and after every restart. Pure.

An entity's place on [0, 1) is a hash of (use case, tenant, entity, experiment). The variants lie on it end to end from
0, each as long as its share; the champion has the rest. The share of a lone challenger can grow therefore without
moving anybody back, and every share is honoured as well as a hash is uniform.
"""

from collections.abc import Sequence
from hashlib import blake2b

CHAMPION = "champion"
TENANT = "tenant"  # the arm of tenants with a version of their own
_BITS = 53  # those of a float
_SLACK = 1e-12  # shares such as ten times 0.1 add up to less than one


def place(use_case: str, tenant: str, key: str, experiment: str) -> float:
    """The position of ``key`` (an entity, or a decision id where there is none) on [0, 1)."""
    # Lengths go in front so that no two different quadruples hash the same bytes.
    text = f"{len(use_case)}:{len(tenant)}:{len(key)}:{use_case}{tenant}{key}{experiment}"
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> (64 - _BITS)) / 2.0**_BITS


def pick(shares: Sequence[float], use_case: str, tenant: str, key: str, experiment: str) -> int | None:
    """Which of the variants with these ``shares`` (0 to 1 each, at most 1 together) answers ``key``; None: champion."""
    at, end = place(use_case, tenant, key, experiment), 0.0
    for index, share in enumerate(shares):
        end += share
        if share > 0.0 and at < end + _SLACK:
            return index
    return None
