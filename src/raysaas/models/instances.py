"""A request's instances to columns: every mistake is named by row and field."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysaas.errors import InputError
from raysaas.models.fields import Array, Columns, Field

_NUMBERS: set[type] = {int, float, type(None)}
_TEXTS: set[type] = {str, type(None)}
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


class Taken(dict[str, Array]):
    """Columns of instances; ``numbers`` are those that are no categories as one array [fields, n], or None."""

    __slots__ = ("numbers",)

    def __init__(self, columns: Iterable[tuple[str, Array]], numbers: NDArray[np.float64] | None) -> None:
        super().__init__(columns)
        self.numbers = numbers


def by_row(columns: Columns) -> Iterable[Sequence[Any]]:
    """The values of each row in the columns' order, as plain Python numbers and strings."""
    whole = getattr(columns, "numbers", None)
    if whole is not None and len(whole) == len(columns):
        rows: list[list[float]] = whole.T.tolist()
        return rows
    return zip(*(column.tolist() for column in columns.values()), strict=True)


class Parser:
    """Checks instances against ``fields``.

    Numbers take JSON numbers, integers whole ones; booleans also 0/1 and true/false/yes/no in text; categories take
    text, and numbers or booleans where the known levels look like those. Null is a missing value everywhere, and so is
    a field left out, unless it is ``required``. NaN and infinities are refused.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._fields = tuple(fields)
        self._by_key = {field.source_name: field.name for field in fields}
        self._by_key |= {field.name: field.name for field in fields}
        self._names = {field.name: None for field in fields}.keys()
        self._required = [field for field in fields if field.required]
        self._numbers = [field for field in fields if field.kind != "category"]
        self._whole = [i for i, field in enumerate(self._numbers) if field.kind == "integer"]
        self._bits = [i for i, field in enumerate(self._numbers) if field.kind == "boolean"]
        self._keys = [field.name for field in self._numbers]
        self._pick = itemgetter(*self._keys) if len(self._keys) > 1 else None

    def __call__(self, instances: Sequence[Mapping[str, Any]], *, refuse_extra: bool) -> Columns:
        """Columns of ``instances``: numbers as float64 with NaN for null, categories as objects of str or None.

        A field may go by its name or by its name in the source. Raises InputError naming row and field.
        """
        rows = [self._named(row, index, refuse_extra) for index, row in enumerate(instances)]
        for field in self._required:
            for index, row in enumerate(rows):
                if row.get(field.name) is None:
                    raise _wrong(field, index, None, "a value: the field is required")
        grid = self._fast_numbers(rows)
        if grid is None:
            return {field.name: _column(field, rows) for field in self._fields}
        if len(self._keys) == len(self._fields):
            return Taken(zip(self._keys, grid, strict=True), grid)
        numbers = dict(zip(self._keys, grid, strict=True))
        return Taken(((f.name, numbers[f.name] if f.name in numbers else _column(f, rows)) for f in self._fields), grid)

    def _named(self, row: Mapping[str, Any], index: int, refuse_extra: bool) -> Mapping[str, Any]:
        if not isinstance(row, Mapping):
            raise InputError(f"Instance {index} is {_shown(row)}: expected an object of field names and values.")
        if row and row.keys() <= self._names:
            return row
        unknown = row.keys() - self._by_key.keys()
        if unknown and refuse_extra:
            raise InputError(self._unknown(index, min(map(str, unknown))))
        pairs = [(self._by_key[key], value) for key, value in row.items() if key in self._by_key]
        named = dict(pairs)
        if len(named) < len(pairs):
            raise InputError(f"Instance {index} gives a field by its name and by its name in the source: give one.")
        if not named:
            raise InputError(f"Instance {index} has none of the model's fields: give some of {_listed(self._names)}.")
        return named

    def _unknown(self, index: int, key: str) -> str:
        near = get_close_matches(key[:80], list(self._by_key), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the model takes {_listed(self._names)}."
        return f"Instance {index} has an unknown field {key[:80]!r}: {hint}"

    def _fast_numbers(self, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
        """All number columns [fields, n] when nothing is odd; else None, and each field is looked at by itself."""
        flat = self._flat(rows)
        if not set(map(type, chain.from_iterable(flat))) <= _NUMBERS:
            return None
        try:
            grid = np.array(flat, dtype=np.float64).reshape(len(rows), len(self._keys)).T
        except OverflowError:
            return None
        finite = np.isfinite(grid)
        odd = (
            (not finite.all() and int((~finite).sum()) > sum(row.count(None) for row in flat))
            or (self._whole and _any_fraction(grid[self._whole], finite[self._whole]))
            or (self._bits and _any_other(grid[self._bits], finite[self._bits]))
        )
        return None if odd else grid

    def _flat(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Sequence[Any]]:
        """The number fields of each row, in order."""
        if self._pick is not None:
            try:
                return [self._pick(row) for row in rows]
            except KeyError:
                pass  # a field was left out
        return [[row.get(key) for key in self._keys] for row in rows]


def _any_fraction(values: NDArray[np.float64], finite: NDArray[np.bool_]) -> bool:
    return bool(((values != np.floor(values)) & finite).any())


def _any_other(bits: NDArray[np.float64], finite: NDArray[np.bool_]) -> bool:
    return bool(((bits != 0) & (bits != 1) & finite).any())


def as_taken(field: Field, value: Any) -> float | str | None:
    """One JSON value that is not null as the model takes it; None when it takes no such value."""
    if field.kind == "category":
        return _level(field, value)
    return _boolean(field, value) if field.kind == "boolean" else _number(field, value)


def _column(field: Field, rows: Sequence[Mapping[str, Any]]) -> Array:
    values = [row.get(field.name) for row in rows]
    if field.kind == "category":
        if not set(map(type, values)) <= _TEXTS:
            values = _each(field, values, _level)
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.array(_each(field, values, _boolean if field.kind == "boolean" else _number), dtype=np.float64)


def _each(field: Field, values: list[Any], convert: Callable[[Field, Any], Any]) -> list[Any]:
    converted = []
    for row, value in enumerate(values):
        result = None if value is None else convert(field, value)
        if result is None and value is not None:
            raise _wrong(field, row, value, _expected(field))
        converted.append(result)
    return converted


def _number(field: Field, value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Beyond the greatest float64 lie infinity and integers that have none; NaN compares false.
    if not abs(value) <= sys.float_info.max or (field.kind == "integer" and value != int(value)):
        return None
    return float(value)


def _boolean(field: Field, value: Any) -> float | None:
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return float(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _level(field: Field, value: Any) -> str | None:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bool):
        return {level.lower(): level for level in field.levels}.get(str(value).lower())
    if isinstance(value, int | float) and abs(value) < 2**63 and _looks_numeric(field):
        return str(int(value)) if value == int(value) and str(value) not in field.levels else str(value)
    return None


def _looks_numeric(field: Field) -> bool:
    return bool(field.levels) and all(level.lstrip("+-").replace(".", "", 1).isdigit() for level in field.levels)


def _expected(field: Field) -> str:
    if field.kind == "boolean":
        return "true or false, or null for missing"
    if field.kind == "category":
        return "text, or null for missing"
    return f"a {'whole' if field.kind == 'integer' else 'finite'} number, or null for missing"


def _wrong(field: Field, row: int, value: object, expected: str) -> InputError:
    return InputError(f"Instance {row}, field {field.name!r} is {_shown(value)}: expected {expected}.")


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")


def _shown(value: object) -> str:
    """What a value is, without the value: an error may be logged by whoever gets it."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        whole = isinstance(value, int) or value.is_integer()
        within = abs(value) <= sys.float_info.max
        return ("a whole number" if whole else "a fraction") if within else "no finite number"
    return "a string" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
