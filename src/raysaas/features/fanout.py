"""Joins fanned out over Ray by hash of the entity key, so that a worker holds one partition or one file only.

A shuffle of two steps, carried by Ray's object store, which spills to disk: tasks split the offered rows, a file each,
into partitions; tasks join a partition each. The driver holds the asking rows and the result, never the offered rows.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import ceil
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Join = Callable[[pa.Table, pa.Table], pa.Table]


class Offered(Protocol):
    """Rows that lie elsewhere, in an order; each of ``parts`` can be read alone, in any process."""

    @property
    def num_rows(self) -> int:
        """How many there are."""
        ...

    def parts(self) -> "Sequence[Offered]":
        """Pieces that follow each other."""
        ...

    def read(self) -> pa.Table:
        """All of them."""
        ...


def partitioned(
    join: Join, asking: pa.Table, offered: pa.Table | Offered, *, keys: Sequence[str], partitions: int, max_rows: int
) -> pa.Table:
    """``join(asking, offered)``, in this process up to ``max_rows`` rows, over Ray tasks beyond that.

    ``join`` must keep the asking rows in their order, add columns to them and look only at offered rows of equal
    ``keys``, in their order; then the result is the same either way. There are ``partitions`` or more, so that each has
    about ``max_rows``. Without a running Ray it stays in this process: a task costs more than a small join.
    """
    num_rows = asking.num_rows + offered.num_rows
    if partitions < 2 or num_rows <= max_rows or not running():
        return join(asking, offered if isinstance(offered, pa.Table) else offered.read())
    num = max(partitions, ceil(num_rows / max_rows))
    rows = _partitions(asking, keys, num)
    joins = [partial(_joined, join, asking.take(rows[part])) for part in range(num)]
    added = pa.concat_tables(collected(shuffled(_parts(offered, max_rows), keys, joins)), promote_options="permissive")
    added = added.take(np.argsort(np.concatenate(rows), kind="stable"))
    for field in added.schema:
        asking = asking.append_column(field, added[field.name])
    return asking


def running() -> bool:
    """Whether this process is connected to Ray."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def shuffled(parts: Sequence[Any], keys: Sequence[str], apply: Sequence[Callable[[pa.Table], Any]]) -> list[Any]:
    """References to what each of ``apply`` makes of one partition of the rows of ``parts``, which stay in their order.

    A part is a table, a reference to one, or an ``Offered``. Rows of equal ``keys`` meet in one partition.
    """
    import ray

    split = ray.remote(num_cpus=0.5, num_returns=len(apply))(_split)
    finish = ray.remote(num_cpus=0.5)(_finish)
    pieces = [split.remote(part, keys, len(apply)) for part in parts]
    return [finish.remote(make, *(piece[number] for piece in pieces)) for number, make in enumerate(apply)]


def each(make: Callable[[pa.Table], Any], parts: Sequence[Any]) -> list[Any]:
    """References to what ``make`` gives for each of ``parts``, which are as in :func:`shuffled`."""
    import ray

    finish = ray.remote(num_cpus=0.5)(_of_part)
    return [finish.remote(make, part) for part in parts]


def collected(tasks: list[Any]) -> Iterator[Any]:
    """Results in order; each leaves the object store as soon as it is here."""
    import ray

    for position, task in enumerate(tasks):
        result = ray.get(task)
        tasks[position] = task = None
        yield result


def _parts(offered: pa.Table | Offered, max_rows: int) -> Sequence[Any]:
    if not isinstance(offered, pa.Table):
        return offered.parts()
    return [offered.slice(start, max_rows) for start in range(0, max(offered.num_rows, 1), max_rows)]


def _rows(part: pa.Table | Offered) -> pa.Table:
    return part if isinstance(part, pa.Table) else part.read()


def _split(part: pa.Table | Offered, keys: Sequence[str], num: int) -> list[pa.Table]:
    table = _rows(part)
    return [table.take(rows) for rows in _partitions(table, keys, num)]


def _finish(make: Callable[[pa.Table], Any], *offered: pa.Table) -> Any:
    return make(pa.concat_tables(offered))


def _of_part(make: Callable[[pa.Table], Any], part: pa.Table | Offered) -> Any:
    return make(_rows(part))


def _joined(join: Join, asking: pa.Table, offered: pa.Table) -> pa.Table:
    return join(asking, offered).drop_columns(asking.column_names)


def _partitions(table: pa.Table, keys: Sequence[str], num: int) -> list[NDArray[np.int64]]:
    """Row numbers of each partition, in order; equal keys of any type meet in the same one in every process."""
    parts = ", ".join(_text(f'"{key}"', table.schema.field(key).type) for key in keys)
    with duckdb.connect() as connection:
        connection.register("selected", table.select(keys))
        query = f"SELECT (hash({parts}) % {num})::INTEGER AS part FROM selected"
        part = np.asarray(connection.sql(query).fetchnumpy()["part"])
    order = np.argsort(part, kind="stable")
    return np.split(order, np.cumsum(np.bincount(part, minlength=num))[:-1])


def _text(column: str, kind: pa.DataType) -> str:
    # 1, 1.0 and 1.00 are equal keys.
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return f"{column}::DOUBLE" if number else f"{column}::VARCHAR"
