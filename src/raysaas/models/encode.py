"""Columns to what models take: one encoder for training, serving and the edge, so that all see the same numbers."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from raysaas.errors import InputError
from raysaas.models.encodings import FOLD, Lookup
from raysaas.models.fields import LIMIT, Array, Columns, Field, fit_field, numbers
from raysaas.models.instances import Parser

__all__ = ["HOT_LEVELS", "Columns", "Encoder", "Field"]

HOT_LEVELS = 32
# Below this many rows one broadcast comparison is faster than a search per field.
SMALL_BATCH = 16
TAIL = 8.0
_LOWEST, _HIGHEST = np.array(-LIMIT), np.array(LIMIT)


class Encoder:
    """Frozen encoding of named columns, fitted on training rows.

    ``fields`` in column order; ``width`` of ``dense``; ``categorical`` are the indices of categories in ``matrix``;
    ``plain`` are the columns of ``dense`` that a textbook linear model would have: a scaled number, flags, one-hot.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.categorical = [i for i, field in enumerate(self.fields) if not field.numeric]
        self._numbers = [field for field in self.fields if field.numeric]
        self._categories = [field for field in self.fields if not field.numeric]
        self._lookups = {f.name: Lookup(f.levels, f.values, f.unseen, f.folds) for f in self.fields if f.encoding}
        self._codes = [{level: code for code, level in enumerate(field.levels)} for field in self._categories]
        self._parser = Parser(self.fields)
        self._place_numbers()
        self._place_categories()

    @classmethod
    def fit(
        cls,
        columns: Columns,
        kinds: Mapping[str, str],
        source_names: Mapping[str, str] | None = None,
        *,
        required: Collection[str] = (),
        encodings: Mapping[str, str] | None = None,
        truth: NDArray[np.float64] | None = None,
    ) -> "Encoder":
        """Learn quantiles and levels of every column named in ``kinds``, in that order.

        ``encodings`` by column say which categories become numbers, ``truth`` [n] are the labels as numbers that a
        target encoding needs. Raises InputError when there are no features or a column is absent.
        """
        absent = [name for name in kinds if name not in columns]
        if absent or not kinds:
            raise InputError(f"Cannot fit an encoder: {'no column ' + ', '.join(absent) if absent else 'no features'}.")
        names, chosen, folds = source_names or {}, encodings or {}, columns.get(FOLD)
        return cls([
            fit_field(name, kind, columns[name], source_name=names.get(name, name), required=name in required,
                      encoding=str(chosen.get(name, "")), truth=truth, folds=folds)
            for name, kind in kinds.items()
        ])  # fmt: skip

    def matrix(self, columns: Columns) -> NDArray[np.float64]:
        """Raw numbers and category codes [n, fields] for trees; NaN is missing, unknown or beyond the known levels."""
        codes = iter(self._codes)
        rows = [self._number(columns, field.name) if field.numeric else _codes(columns[field.name], next(codes))
                for field in self.fields]  # fmt: skip
        return np.ascontiguousarray(np.array(rows, dtype=np.float64).T)

    def dense(self, columns: Columns) -> NDArray[np.float32]:
        """Finite inputs [n, width] for the network and linear models.

        Numbers: normal score by training quantiles, robustly scaled value (linear to 8, then logarithmic), missing flag
        where training saw missing values. Categories: one-hot of the 32 most frequent levels, other, missing; those
        with an encoding are numbers. Rows with a fold (``encodings.FOLD``) are seen as a fit may see them.
        """
        num_rows = len(columns[self.fields[0].name])
        out = np.zeros((num_rows, self.width), dtype=np.float32)
        if self._numbers:
            whole = None if self._lookups else getattr(columns, "numbers", None)
            if whole is None:
                whole = np.array([self._number(columns, field.name) for field in self._numbers], dtype=np.float64)
            self._fill_numbers(whole, out)
        if self._categories:
            self._fill_categories(columns, out)
        return out

    def rows(self, instances: Sequence[Mapping[str, Any]], extra: Literal["refuse", "ignore"] = "refuse") -> Columns:
        """Columns of a request's instances; raises InputError naming row and field. See ``instances.Parser``."""
        return self._parser(instances, refuse_extra=extra == "refuse")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; floats survive JSON text exactly."""
        return {"format": 1, "fields": [field.to_json() for field in self.fields]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Encoder":
        """Inverse of ``to_json``."""
        return cls([Field.from_json(item) for item in data["fields"]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoder) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def _number(self, columns: Columns, name: str) -> NDArray[np.float64]:
        lookup = self._lookups.get(name)
        return numbers(columns[name]) if lookup is None else lookup(columns[name], columns.get(FOLD))

    def _place_numbers(self) -> None:
        fields = self._numbers
        # A constant field gets a flat line, so that it needs no branch later.
        lines = [(f.knots, f.scores) if f.knots else ((0.0, 1.0), (0.0, 0.0)) for f in fields]
        longest = max((len(knots) for knots, _ in lines), default=2)
        self._knots = np.full((len(fields), longest), np.inf)
        self._scores = np.zeros((len(fields), longest))
        for i, (knots, scores) in enumerate(lines):
            self._knots[i, : len(knots)], self._scores[i, : len(scores)] = knots, scores
        # One gather per table and row: tables are flat, and what two neighbours differ by is known.
        self._first = np.arange(len(fields), dtype=np.intp)[:, None] * longest
        self._last = np.array([[len(knots) - 2] for knots, _ in lines], dtype=np.intp).reshape(-1, 1)
        self._steps = np.ascontiguousarray(self._knots.T)[:, :, None]
        with np.errstate(invalid="ignore"):  # behind the last knot
            self._widths, self._rises = (np.diff(table, append=np.inf) for table in (self._knots, self._scores))
        self._low = np.array([[knots[0]] for knots, _ in lines]).reshape(-1, 1)
        self._high = np.array([[knots[-1]] for knots, _ in lines]).reshape(-1, 1)
        self._median = np.array([[f.median] for f in fields]).reshape(-1, 1)
        # Two values carry one bit: their score says it all.
        self._tails = np.array([i for i, f in enumerate(fields) if len(f.knots) > 2], dtype=np.intp)
        self._tail_scale = np.array([[fields[i].scale] for i in self._tails]).reshape(-1, 1)
        self._tail_median = self._median[self._tails]
        self._all_tails = self._tails.size == len(fields)
        self._flags = np.array([i for i, f in enumerate(fields) if f.has_missing], dtype=np.intp)

    def _place_categories(self) -> None:
        offset = len(self._numbers) + self._tails.size + self._flags.size
        positions = []
        for field in self._categories:
            num_hot = min(len(field.levels), HOT_LEVELS)
            has_other = len(field.levels) > HOT_LEVELS
            # What training never saw lights no column: a column without data keeps random weights.
            place = {level: offset + min(code, HOT_LEVELS) for code, level in enumerate(field.levels)}
            positions.append((field.name, place, offset + num_hot if has_other else -1,
                              offset + num_hot + has_other if field.has_missing else -1))  # fmt: skip
            offset += num_hot + has_other + field.has_missing
        self._positions = positions
        self.width = offset
        self.plain = sorted(set(range(offset)) - set(self._tails.tolist()))

    def _fill_numbers(self, values: NDArray[np.float64], out: NDArray[np.float32]) -> None:
        num_fields = len(values)
        missing = np.isnan(values)
        filled = np.where(missing, self._median, values)
        out[:, :num_fields] = self._normal_scores(np.minimum(np.maximum(filled, self._low), self._high)).T
        start = num_fields + self._tails.size
        if self._tails.size:
            ends = filled if self._all_tails else filled[self._tails]
            scaled = (np.minimum(np.maximum(ends, _LOWEST), _HIGHEST) - self._tail_median) / self._tail_scale
            size = np.abs(scaled)
            if (far := size > TAIL).any():
                scaled = np.where(far, np.copysign(TAIL + np.log1p(np.maximum(size - TAIL, 0)), scaled), scaled)
            out[:, num_fields:start] = scaled.T
        if self._flags.size:
            out[:, start : start + self._flags.size] = missing[self._flags].T

    def _normal_scores(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if values.shape[1] <= SMALL_BATCH:
            below = np.add.reduce((self._steps <= values).view(np.uint8), axis=0, dtype=np.intp)
        else:
            found = [np.searchsorted(knots, row, side="right") for knots, row in zip(self._knots, values, strict=True)]
            below = np.array(found)
        place = np.minimum(below - 1, self._last) + self._first
        along = (values - self._knots.take(place)) / self._widths.take(place)
        weighted: NDArray[np.float64] = self._scores.take(place) + along * self._rises.take(place)
        return weighted

    def _fill_categories(self, columns: Columns, out: NDArray[np.float32]) -> None:
        places = np.empty((len(out), len(self._positions)), dtype=np.intp)
        for j, (name, place, other, missing) in enumerate(self._positions):
            places[:, j] = [missing if item is None else place.get(item, other) for item in columns[name].tolist()]
        row, column = np.nonzero(places >= 0)
        out[row, places[row, column]] = 1.0


def _codes(values: Array, codes: Mapping[str, int]) -> NDArray[np.float64]:
    nan = float("nan")
    return np.array([codes.get(item, nan) for item in values.tolist()], dtype=np.float64)
