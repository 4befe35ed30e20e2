"""Window accumulators: what a window of decisions looked like, in a size that does not grow with it.

Windows of replicas and edge sites add up with ``+``: bin counts exactly, score quantiles within the sketch's error.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from datasketches import kll_doubles_sketch
from numpy.typing import NDArray

from raysaas.models.profile import Bins, Counts, Profile

KLL_K = 200
MAX_MOMENTS = 64


class Quantiles:
    """Mergeable quantiles of a stream of numbers, rank error 1.3 % at 99 % confidence; NaN is left out.

    References
    ----------
    Karnin, Z., Lang, K. and Liberty, E. (2016). Optimal quantile approximation in streams. FOCS.

    Examples
    --------
    >>> Quantiles().add([1.0, 2.0, 3.0]).at(0.5)
    2.0
    """

    def __init__(self, sketch: Any = None) -> None:
        self._sketch = sketch if sketch is not None else kll_doubles_sketch(KLL_K)

    def add(self, values: Sequence[float] | NDArray[np.float64]) -> "Quantiles":
        """Take in values [n]; returns itself."""
        array = np.asarray(values, dtype=np.float64)
        self._sketch.update(array[~np.isnan(array)])
        return self

    def __add__(self, other: "Quantiles") -> "Quantiles":
        merged = kll_doubles_sketch(KLL_K)
        merged.merge(self._sketch)
        merged.merge(other._sketch)
        return Quantiles(merged)

    def at(self, share: float) -> float | None:
        """The value that ``share`` (0 to 1) of the stream does not exceed; None before the first value."""
        return None if self._sketch.is_empty() else float(self._sketch.get_quantile(share, True))

    def num_values(self) -> int:
        """How many values were taken in."""
        return int(self._sketch.n)

    def to_text(self) -> str:
        """The sketch as base64 text."""
        return base64.b64encode(self._sketch.serialize()).decode()

    @classmethod
    def from_text(cls, text: str) -> "Quantiles":
        """Inverse of ``to_text``."""
        return cls(kll_doubles_sketch.deserialize(base64.b64decode(text)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionWindow:
    """Decisions of one model version, counted in the bins of its reference profile.

    ``moments`` are the earliest ``MAX_MOMENTS`` distinct decision times, sorted, so that they merge exactly: decisions
    of one request share theirs.
    """

    counts: Counts
    first: str
    last: str
    started_at: datetime
    ended_at: datetime
    moments: tuple[str, ...] = ()
    score: Quantiles = field(default_factory=Quantiles)

    @classmethod
    def of(cls, profile: Profile, records: Sequence[Mapping[str, Any]]) -> "DecisionWindow":
        """Count journal records of decisions; an input that is absent or of another type counts as missing."""
        inputs = [record["inputs"] for record in records]
        columns = {name: _column([row.get(name) for row in inputs], bins) for name, bins in profile.features.items()}
        scores = np.array([record["score"] for record in records], dtype=np.float64)
        times = [datetime.fromisoformat(record["time"]) for record in records]
        return cls(counts=profile.count(columns, scores), first=records[0]["id"], last=records[-1]["id"],
                   started_at=min(times), ended_at=max(times), score=Quantiles().add(scores),
                   moments=_earliest(record["time"] for record in records))  # fmt: skip

    @property
    def num_rows(self) -> int:
        """Decisions so far."""
        return self.counts.num_rows

    @property
    def num_requests(self) -> int:
        """Distinct moments so far, at most ``MAX_MOMENTS``."""
        return len(self.moments)

    def __add__(self, other: "DecisionWindow") -> "DecisionWindow":
        return DecisionWindow(counts=self.counts + other.counts, first=self.first, last=other.last,
                              started_at=min(self.started_at, other.started_at),
                              ended_at=max(self.ended_at, other.ended_at), score=self.score + other.score,
                              moments=_earliest((*self.moments, *other.moments)))  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        times = {"started_at": self.started_at.isoformat(), "ended_at": self.ended_at.isoformat()}
        ends = {"first": self.first, "last": self.last}
        counted = {"counts": self.counts.to_json(), "score": self.score.to_text(), "moments": list(self.moments)}
        return {**counted, **ends, **times}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DecisionWindow":
        """Inverse of ``to_json``."""
        times = {key: datetime.fromisoformat(data[key]) for key in ("started_at", "ended_at")}
        return cls(counts=Counts.from_json(data["counts"]), score=Quantiles.from_text(data["score"]),
                   first=data["first"], last=data["last"], moments=tuple(data.get("moments", ())),
                   **times)  # fmt: skip


def _earliest(moments: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(moments))[:MAX_MOMENTS])


def _column(values: list[Any], bins: Bins) -> NDArray[Any]:
    if bins.kind == "category":
        column = np.empty(len(values), dtype=object)
        column[:] = [None if value is None else str(value) for value in values]
        return column
    return np.array([float(value) if isinstance(value, int | float) else np.nan for value in values], dtype=np.float64)
