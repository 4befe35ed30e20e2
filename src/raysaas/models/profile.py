"""What a model's inputs and scores looked like in training, frozen as counts, to measure drift against.

Bins never move after ``fit``, so counts of windows, replicas and edge sites add up exactly.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysaas.models.fields import Array, Columns, numbers, texts

NUM_BINS = 10
MAX_VALUES = 30
SAMPLE_ROWS = 200_000

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Rows per bin of each feature and of the score; windows add up with ``+``."""

    num_rows: int
    features: Mapping[str, Integers]
    score: Integers

    def __add__(self, other: "Counts") -> "Counts":
        features = {name: counts + other.features[name] for name, counts in self.features.items()}
        return Counts(num_rows=self.num_rows + other.num_rows, features=features, score=self.score + other.score)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        features = {name: counts.tolist() for name, counts in self.features.items()}
        return {"num_rows": self.num_rows, "features": features, "score": self.score.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Counts":
        """Inverse of ``to_json``."""
        features = {name: np.array(counts, dtype=np.int64) for name, counts in data["features"].items()}
        return cls(num_rows=int(data["num_rows"]), features=features, score=np.array(data["score"], dtype=np.int64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Bins of one feature or score, and the reference rows in each.

    Numbers: bin i holds ``edges[i-1] < x <= edges[i]``; ``counts`` has len(edges) + 2 entries, the last is missing.
    Categories: ``counts`` has len(values) + 2 entries, the last two are other and missing.
    """

    kind: str
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    def count(self, column: Array) -> Integers:
        """Rows of ``column`` per bin."""
        if self.kind == "category":
            place = {value: i for i, value in enumerate(self.values)}
            other = len(place)
            found = [other + 1 if item is None else place.get(item, other) for item in texts(column)]
            return np.bincount(np.array(found, dtype=np.int64), minlength=other + 2)
        values = numbers(column)
        index = np.searchsorted(np.array(self.edges), values, side="left")
        index[np.isnan(values)] = len(self.edges) + 1
        return np.bincount(index, minlength=len(self.edges) + 2)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, without what this kind has not."""
        shape = {"values": list(self.values)} if self.kind == "category" else {"edges": list(self.edges)}
        return {"kind": self.kind, **shape, "counts": list(self.counts)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Bins":
        """Inverse of ``to_json``."""
        return cls(kind=data["kind"], edges=tuple(data.get("edges", ())), values=tuple(data.get("values", ())),
                   counts=tuple(data["counts"]))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Reference of one model version: the bins of every feature and of the score, with their training counts."""

    num_rows: int
    features: Mapping[str, Bins]
    score: Bins

    @classmethod
    def fit(cls, columns: Columns, kinds: Mapping[str, str], scores: Array) -> "Profile":
        """Freeze deciles, levels and counts of training rows; ``scores`` [n] are the model's on rows it did not fit."""
        features = {name: _fit(kind, columns[name]) for name, kind in kinds.items()}
        num_rows = len(next(iter(columns.values()))) if columns else len(scores)
        return cls(num_rows=num_rows, features=features, score=_fit("number", scores))

    def count(self, columns: Columns, scores: Array) -> Counts:
        """Bin rows [n] of any window; every feature of the profile must be in ``columns``."""
        features = {name: bins.count(columns[name]) for name, bins in self.features.items()}
        return Counts(num_rows=len(scores), features=features, score=self.score.count(scores))

    def reference(self) -> Counts:
        """The training counts themselves."""
        features = {name: np.array(bins.counts, dtype=np.int64) for name, bins in self.features.items()}
        return Counts(num_rows=self.num_rows, features=features, score=np.array(self.score.counts, dtype=np.int64))

    def empty(self) -> Counts:
        """Counts of no rows: where a sum of windows starts."""
        features = {name: np.zeros(len(bins.counts), dtype=np.int64) for name, bins in self.features.items()}
        return Counts(num_rows=0, features=features, score=np.zeros(len(self.score.counts), dtype=np.int64))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        features = {name: bins.to_json() for name, bins in self.features.items()}
        return {"format": 1, "num_rows": self.num_rows, "features": features, "score": self.score.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Profile":
        """Inverse of ``to_json``."""
        features = {name: Bins.from_json(item) for name, item in data["features"].items()}
        return cls(num_rows=int(data["num_rows"]), features=features, score=Bins.from_json(data["score"]))


def _fit(kind: str, column: Array) -> Bins:
    if kind == "category":
        counts = Counter(item for item in texts(column) if item is not None)
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        bins = Bins(kind="category", values=tuple(name for name, _ in ranked[:MAX_VALUES]))
    else:
        bins = Bins(kind="number", edges=_edges(numbers(column)))
    return replace(bins, counts=tuple(bins.count(column).tolist()))


def _edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    present = values[np.isfinite(values)]
    if present.size == 0:
        return ()
    low, high = float(present.min()), float(present.max())
    if low == high:
        # Below, equal, above: a constant that moves must show.
        return float(np.nextafter(low, -np.finfo(float).max)), low
    if present.size > SAMPLE_ROWS:
        present = np.random.default_rng(0).choice(present, SAMPLE_ROWS, replace=False)
    deciles = np.quantile(present, np.linspace(0, 1, NUM_BINS + 1)[1:-1], method="inverted_cdf")
    return tuple(edge for edge in np.unique(deciles).tolist() if edge < high)
