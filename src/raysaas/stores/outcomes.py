"""Which of several outcomes of a decision counts, for readers that see them one by one and cannot keep them all.

The rule is that of ``stores.matured``: the one observed last, then the one that came last; nothing was observed later
than it came.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple


class Told(NamedTuple):
    """What an outcome says, and when it was observed and came (microseconds since 1970): the greater one counts.

    >>> first = Told.of({"label": "no", "observed_at": "2026-01-02T00:00:00Z", "known_at": "2026-01-02T00:00:00Z"})
    >>> late = Told.of({"label": "yes", "observed_at": "2026-01-01T00:00:00Z", "known_at": "2026-01-03T00:00:00Z"})
    >>> max(first, late).label
    'no'
    """

    observed_us: int
    known_us: int
    label: str

    @classmethod
    def of(cls, outcome: Mapping[str, Any]) -> "Told | None":
        """Read a journal record; None when it says nothing."""
        if outcome.get("label") is None:
            return None
        observed = _micros(outcome.get("observed_at"))
        known = _micros(outcome.get("known_at")) or observed
        return cls(min(observed, known), known, str(outcome["label"]))


class ByKey:
    """Outcomes that name decisions by the caller's own key, the newest ``most`` of them.

    A decision may be made after its outcome came, and several decisions may share a key. Keys are kept as hashes.
    """

    def __init__(self, most: int, told: Mapping[str, Sequence[Any]] | None = None) -> None:
        self._most = most
        self._told = {name: Told(*one) for name, one in (told or {}).items()}

    def add(self, outcome: Mapping[str, Any], told: Told) -> None:
        """Remember ``outcome``, which names a key; of several of one key the greatest stays."""
        name = key_name(outcome)
        self._told[name] = max(told, self._told.pop(name, told))
        for oldest in list(islice(self._told, max(len(self._told) - self._most, 0))):
            del self._told[oldest]

    def of(self, decision: Mapping[str, Any]) -> Told | None:
        """What was told of a decision by its key."""
        return self._told.get(key_name(decision)) if decision.get("key") is not None else None

    def to_json(self) -> dict[str, Told]:
        """Plain JSON types; ``ByKey(most, told)`` brings it back."""
        return dict(self._told)


def name_of(tenant: Any, decision_id: Any) -> str:
    """A decision as only outcomes of its own tenant name it: others may know the bare id.

    >>> id_of(name_of("acme", "d1"))
    'd1'
    """
    return f"{decision_id}/{tenant}"


def id_of(name: str) -> str:
    """The id in :func:`name_of`."""
    return name.partition("/")[0]


def key_name(record: Mapping[str, Any]) -> str:
    """A name for the key of a decision or an outcome, which is its tenant's own."""
    parts = f"{record.get('tenant')}\x1f{record.get('key')}"
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _micros(moment: Any) -> int:
    try:
        return round(datetime.fromisoformat(moment).timestamp() * 1e6)
    except (TypeError, ValueError):
        return 0
