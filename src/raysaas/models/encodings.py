"""Categories as one number each: ordinal, frequency and target encodings, learned from training rows only.

A row that is fitted on must not see its own label through a target encoding: its number then comes from the rows of
the other folds (out of fold, as in scikit-learn's TargetEncoder), every other row's from all training rows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysaas.errors import InputError

NUMERIC = ("ordinal", "frequency", "target")
# The column, of int8, that says which fold a training row is in; -1 and absence say that it is not fitted on.
FOLD = "encoding_fold"
NUM_FOLDS = 5
# A level's mean counts as much as the overall mean when it has this many rows (Micci-Barreca 2001).
SMOOTHING = 20.0

Floats = NDArray[np.float64]
Items = Sequence[str | None]


def learned(
    encoding: str, levels: Sequence[str], items: Items, truth: Floats | None, folds: NDArray[Any] | None
) -> dict[str, Any]:
    """``values`` of ``levels``, that of levels not among them (``unseen``, None for missing), and values by fold.

    ``ordinal`` is the place among the levels in order (of numbers where all are numbers), ``frequency`` the share of
    rows, ``target`` the mean of ``truth`` [n], smoothed towards that of all rows. Raises InputError without a truth.
    """
    if encoding == "ordinal":
        place = {level: float(i) for i, level in enumerate(sorted(levels, key=_order(levels)))}
        return {"values": tuple(place[level] for level in levels), "unseen": None}
    code = {level: i for i, level in enumerate(levels)}
    codes = np.array([code.get(item, -1) if item is not None else -1 for item in items], dtype=np.int64)
    if encoding == "frequency":
        counts = np.bincount(codes[codes >= 0], minlength=len(levels))
        return {"values": tuple((counts / max(len(items), 1)).tolist()), "unseen": 0.0}
    if truth is None or not len(truth):
        raise InputError("a target encoding needs the labels of the training rows: there are none.")
    values, prior = _means(codes, truth, len(levels))
    shape: dict[str, Any] = {"values": tuple(values.tolist()), "unseen": prior}
    if folds is not None:
        others = [_means(codes[folds != fold], truth[folds != fold], len(levels)) for fold in range(NUM_FOLDS)]
        shape["folds"] = tuple((*means.tolist(), mean) for means, mean in others)
    return shape


def _order(levels: Sequence[str]) -> Any:
    try:
        number = {level: float(level) for level in levels}
    except ValueError:
        return str
    return lambda level: (number[level], level)


def _means(codes: NDArray[np.int64], truth: Floats, num_levels: int) -> tuple[Floats, float]:
    prior = float(truth.mean()) if len(truth) else 0.0
    known = codes >= 0
    counts = np.bincount(codes[known], minlength=num_levels)
    sums = np.bincount(codes[known], weights=truth[known], minlength=num_levels)
    return (sums + SMOOTHING * prior) / (counts + SMOOTHING), prior


class Lookup:
    """The numbers of one encoded category."""

    def __init__(
        self, levels: Sequence[str], values: Sequence[float], unseen: float | None, folds: Sequence[Sequence[float]]
    ) -> None:
        """``folds`` hold a value per level and one for levels not among them, for the rows of each fold."""
        nan = float("nan")
        self._unseen = nan if unseen is None else unseen
        self._places: Mapping[str | None, float] = {**dict(zip(levels, values, strict=True)), None: nan}
        self._codes: Mapping[str | None, int] = {**{level: i for i, level in enumerate(levels)}, None: -1}
        self._folds = np.array([[*row, nan] for row in folds]) if folds else None

    def __call__(self, items: NDArray[Any], fold: NDArray[Any] | None = None) -> Floats:
        """Numbers [n] of strings [n], NaN for None; rows with a ``fold`` from 0 up get those of the other folds."""
        texts = items.tolist()
        values = np.array([self._places.get(item, self._unseen) for item in texts], dtype=np.float64)
        if fold is None or self._folds is None:
            return values
        other = self._folds.shape[1] - 2
        codes = np.array([self._codes.get(item, other) for item in texts], dtype=np.int64)
        fitted = np.asarray(fold) >= 0
        return np.where(fitted, self._folds[np.where(fitted, fold, 0), codes], values)
