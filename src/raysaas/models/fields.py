"""One model input: what its training values looked like, frozen.

Kinds: ``number``, ``integer`` and ``boolean`` hold float64 arrays with NaN for missing; ``category`` holds object
arrays of ``str`` or ``None``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysaas.errors import InputError
from raysaas.models.encodings import NUMERIC, Lookup, learned

Array = NDArray[Any]
Columns = Mapping[str, Array]

KINDS = ("number", "integer", "boolean", "category")
MAX_LEVELS = 1000
NUM_KNOTS = 64
SAMPLE_ROWS = 200_000
# Squares and differences of clipped values stay finite in float64.
LIMIT = 1e100


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One input of a model.

    ``levels`` are category values, most frequent first; ``knots`` are strictly increasing training quantiles and
    ``scores`` their normal scores; ``median`` stands in for a missing number, ``scale`` is a robust standard deviation.
    ``has_missing`` says whether training saw missing values; ``required`` whether a request must name the field.
    A category with an ``encoding`` is a number to models: ``values`` of its levels, ``unseen`` of others; ``folds``
    serve training only and are not stored. See ``encodings``.
    """

    name: str
    kind: str
    source_name: str
    required: bool = False
    has_missing: bool = False
    levels: tuple[str, ...] = ()
    knots: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    median: float = 0.0
    scale: float = 1.0
    encoding: str = ""
    values: tuple[float, ...] = ()
    unseen: float | None = None
    folds: tuple[tuple[float, ...], ...] = field(default=(), compare=False)

    @property
    def numeric(self) -> bool:
        """Whether models take it as a number."""
        return self.kind != "category" or bool(self.encoding)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, without an encoding where there is none."""
        plain = asdict(self)
        for name in ("folds",) if self.encoding else ("folds", "encoding", "values", "unseen"):
            del plain[name]
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Field":
        """Inverse of ``to_json``, also after a pass through JSON text."""
        tuples = {key: tuple(data[key]) for key in ("levels", "knots", "scores", "values") if key in data}
        return cls(**{**data, **tuples})


def numbers(values: Array) -> NDArray[np.float64]:
    """Float64 with NaN for None, whatever the array came as."""
    return np.asarray(values, dtype=np.float64)


def texts(values: Iterable[Any]) -> list[str | None]:
    """Plain strings with None for missing (None or NaN), whatever the array came as."""
    items = values.tolist() if isinstance(values, np.ndarray) else list(values)
    return [None if item is None or item != item else str(item) for item in items]


def fit_field(
    name: str,
    kind: str,
    values: Array,
    *,
    source_name: str,
    required: bool = False,
    encoding: str = "",
    truth: NDArray[np.float64] | None = None,
    folds: Array | None = None,
) -> Field:
    """Freeze what ``values`` [n] look like; raises InputError for an unknown kind.

    ``truth`` [n] are the labels as numbers, for a target encoding, and ``folds`` [n] the folds of its rows.
    """
    if kind not in KINDS:
        raise InputError(f"Feature {name!r} has kind {kind!r}: expected one of {', '.join(KINDS)}.")
    if encoding and kind != "category":
        raise InputError(f"use_case.encodings.{name}={encoding} is for a category: feature {name!r} is a {kind}.")
    shape = _category(texts(values)) if kind == "category" else _number(numbers(values))
    if encoding in NUMERIC:
        shape |= learned(encoding, shape["levels"], texts(values), truth, folds)
        encoded = Lookup(shape["levels"], shape["values"], shape["unseen"], ())(values)
        shape |= {**_number(encoded), "encoding": encoding}
    return Field(name=name, kind=str(kind), source_name=source_name, required=required, **shape)


def _category(items: list[str | None]) -> dict[str, Any]:
    counts = Counter(item for item in items if item is not None)
    num_missing = len(items) - counts.total()
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MAX_LEVELS]
    return {"levels": tuple(level for level, _ in ranked), "has_missing": num_missing > 0}


def _number(values: NDArray[np.float64]) -> dict[str, Any]:
    present = np.clip(values[~np.isnan(values)], -LIMIT, LIMIT)
    shape: dict[str, Any] = {"has_missing": present.size < values.size}
    if present.size == 0:
        return shape
    if present.size > SAMPLE_ROWS:
        present = np.random.default_rng(0).choice(present, SAMPLE_ROWS, replace=False)
    ordered = np.sort(present)
    shape["median"] = float(ordered[(ordered.size - 1) // 2])
    shape["scale"] = _scale(ordered)
    knots = np.unique(ordered[np.linspace(0, ordered.size - 1, NUM_KNOTS).round().astype(int)])
    if knots.size > 1:
        shape["knots"], shape["scores"] = tuple(knots.tolist()), _normal_scores(ordered, knots)
    return shape


def _scale(ordered: NDArray[np.float64]) -> float:
    # Width of the central 95 % of a normal distribution is 3.92 standard deviations.
    low, high = np.quantile(ordered, [0.025, 0.975])
    scale = float(high - low) / 3.92 or float(ordered.std())
    return max(scale, 1e-100)


def _normal_scores(ordered: NDArray[np.float64], knots: NDArray[np.float64]) -> tuple[float, ...]:
    # Mid-ranks, so that a value shared by many rows lands in the middle of its share.
    left = np.searchsorted(ordered, knots, side="left")
    right = np.searchsorted(ordered, knots, side="right")
    ranks = np.clip((left + right) / (2 * ordered.size), 0.002, 0.998)
    return tuple(NormalDist().inv_cdf(float(rank)) for rank in ranks)
