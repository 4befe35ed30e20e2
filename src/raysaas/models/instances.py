"""A request's instances to columns: every mistake is named by row and field."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from raysaas.errors import InputError
from raysaas.models.fields import Array, Columns, Field

_NUMBERS: set[type] = {int, float, type(None)}
_TEXTS: set[type] = {str, type(None)}
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


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

    def __call__(self, instances: Sequence[Mapping[str, Any]], *, refuse_extra: bool) -> Columns:
        """Columns of ``instances``: numbers as float64 with NaN for null, categories as objects of str or None.

        A field may go by its name or by its name in the source. Raises InputError naming row and field.
        """
        rows = [self._named(row, index, refuse_extra) for index, row in enumerate(instances)]
        for field in self._required:
            for index, row in enumerate(rows):
                if row.get(field.name) is None:
                    raise _wrong(field, index, None, "a value: the field is required")
        numbers = self._fast_numbers(rows)
        return {f.name: numbers[f.name] if f.name in numbers else _column(f, rows) for f in self._fields}

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

    def _fast_numbers(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
        """All number columns in one array when nothing is odd; else nothing, and each field is looked at by itself."""
        flat = [row.get(field.name) for field in self._numbers for row in rows]
        if not set(map(type, flat)) <= _NUMBERS:
            return {}
        try:
            grid = np.array(flat, dtype=np.float64).reshape(len(self._numbers), len(rows))
        except OverflowError:
            return {}
        missing = ~np.isfinite(grid)
        bits, whole = grid[self._bits], grid[self._whole]
        odd = (
            int(missing.sum()) > flat.count(None)
            or bool(((whole != np.floor(whole)) & ~missing[self._whole]).any())
            or bool(((bits != 0) & (bits != 1) & ~missing[self._bits]).any())
        )
        return {} if odd else {field.name: column for field, column in zip(self._numbers, grid, strict=True)}


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
