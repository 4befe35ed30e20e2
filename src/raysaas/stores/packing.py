"""Feature rows as bytes: one msgpack array per row, whose names are kept once per view.

An array without names is a third of the map's size and decodes faster. Floats (NaN and infinities too), 64-bit
integers, booleans, text, bytes, times, lists and nulls come back exactly. Library: msgspec.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

Row = tuple[str, str, datetime, Mapping[str, Any]]
Packed = tuple[str, str, int, bytes]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
_NIL = b"\xc0"
CONTEXT = {"row_id", "tenant", "entity", "event_time", "known_at"}
pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


class Column(NamedTuple):
    """One view's part of a read: its feature names, and for each key the event time and values of its row, or None."""

    names: Sequence[str]
    times: Sequence[int | None]
    values: Sequence[list[Any] | None]


def unpack_all(bodies: Sequence[bytes | None]) -> list[list[Any] | None]:
    """Decode packed rows, in one call."""
    size = b"\xdd" + len(bodies).to_bytes(4)
    rows: list[list[Any] | None] = unpack(size + b"".join([body or _NIL for body in bodies]))
    return rows


def micros(moment: datetime) -> int:
    """Microseconds since 1970; a time without a zone is UTC."""
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICRO


def value_names(rows: pa.Table | Sequence[Row]) -> list[str]:
    """Names of the features in ``rows``, in their order."""
    if isinstance(rows, pa.Table):
        return [name for name in rows.column_names if name not in CONTEXT]
    return list(dict.fromkeys(name for row in rows for name in row[3]))


def packed(rows: pa.Table | Sequence[Row], names: Sequence[str]) -> list[Packed]:
    """(tenant, entity, event time in microseconds, bytes) of each row, by entity and tenant, values in the order of
    ``names``.

    Rows of one key keep their order. A name that a row lacks is null there. Raises TypeError for a value of another
    type than those above.
    """
    found = _of_table(rows, names) if isinstance(rows, pa.Table) else _of_rows(rows, names)
    return sorted(found, key=itemgetter(1, 0))


def _of_rows(rows: Iterable[Row], names: Sequence[str]) -> Iterator[Packed]:
    for tenant, entity, moment, values in rows:
        yield tenant, entity, micros(moment), pack([values.get(name) for name in names])


def _of_table(table: pa.Table, names: Sequence[str]) -> Iterator[Packed]:
    # Sorted here in C: sorting what is sorted already costs Python next to nothing.
    table = table.sort_by([("entity", "ascending"), ("tenant", "ascending")])
    times = table["event_time"].cast(pa.timestamp("us", "UTC"), safe=False).cast(pa.int64())
    columns = [_values(table[name]) if name in table.column_names else repeat(None, table.num_rows) for name in names]
    bodies = map(pack, zip(*columns, strict=True) if columns else repeat((), len(table)))
    return zip(_values(table["tenant"]), _values(table["entity"]), _values(times), bodies, strict=True)


def _values(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if not column.null_count and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        values: list[Any] = column.to_numpy().tolist()
        return values
    listed: list[Any] = column.to_pylist()
    return listed
