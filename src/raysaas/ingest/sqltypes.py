"""Rows of a database driver as Arrow columns.

PostgreSQL says what each column is: numeric becomes float64, timestamps microseconds (with a zone: UTC), json, uuid,
arrays, enums and all else text; arrays are written as JSON. Of other databases the values tell. Binary columns are
refused: a query can encode or leave them out.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from raysaas.errors import ConfigError

_UTC = pa.timestamp("us", "UTC")
_BINARY = 17
# Type ids of pg_type, which never change.
_POSTGRES: dict[int, pa.DataType] = {
    16: pa.bool_(), 20: pa.int64(), 21: pa.int64(), 23: pa.int64(), 26: pa.int64(), 700: pa.float64(),
    701: pa.float64(), 1700: pa.float64(), 1082: pa.date32(), 1114: pa.timestamp("us"), 1184: _UTC,
}  # fmt: skip


def to_table(names: Sequence[str], codes: Sequence[int | None], rows: Iterable[Sequence[Any]]) -> pa.Table:
    """Rows as a table; ``codes`` are PostgreSQL's type ids, None where the driver has none. Raises ConfigError."""
    columns = zip(*rows, strict=True)
    arrays = [_array(*column) for column in zip(names, codes, columns, strict=True)]
    return pa.table(dict(zip(names, arrays, strict=True)))


def _array(name: str, code: int | None, values: Sequence[Any]) -> pa.Array:
    kind = _POSTGRES.get(code, pa.string()) if code is not None else _kind(values)
    if code == _BINARY or kind is None:
        raise ConfigError(f"Column {name!r} is binary: leave it out by sql.query, or encode it there.")
    with suppress(pa.ArrowException, TypeError, OverflowError):  # most columns need no look at each value
        return pa.array(values, kind)
    if pa.types.is_string(kind):
        return pa.array([None if value is None else as_text(value) for value in values], kind)
    if pa.types.is_floating(kind):
        return pa.array([None if value is None else float(value) for value in values], kind)
    return pa.array(values, kind)


def _kind(values: Sequence[Any]) -> pa.DataType | None:
    """What all values are; None for binary ones."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds & {bytes, bytearray, memoryview}:
        return None
    if kinds == {datetime}:
        return _UTC if all(value.tzinfo for value in values if value is not None) else pa.timestamp("us")
    known = (({bool}, pa.bool_()), ({int}, pa.int64()), ({int, float, Decimal}, pa.float64()), ({date}, pa.date32()))
    return next((kind for allowed, kind in known if kinds and kinds <= allowed), pa.string())


def as_text(value: Any) -> str:
    """A value that has no type of its own here: JSON of lists and objects, else as it prints."""
    if isinstance(value, list | dict | tuple):
        return orjson.dumps(value, default=str).decode()
    return str(value)
