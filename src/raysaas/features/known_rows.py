"""The rows of one source that were known at a time and count: in this process, or partition by partition over Ray.

A row counts by itself unless the source keeps several versions of one; those meet by their unique key first, which may
be another than the entity's. In every process rows lie in the same order, by tenant, entity, event time and row id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from math import ceil
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysaas.features.current_versions import current_versions
from raysaas.features.definitions import KEYS, STAMP
from raysaas.features.fanout import Join, collected, each, partitioned, shuffled
from raysaas.settings import Features
from raysaas.stores.datafiles import DataFiles
from raysaas.use_case import Keep, Source

_ORDER = [*KEYS, "event_time", "row_id"]
Reduce = Callable[[pa.Table], pa.Table]


class KnownRows(Protocol):
    """What is done with the rows of a source, wherever they are held."""

    def only(self, columns: Sequence[str]) -> "KnownRows":
        """The same rows with fewer columns."""
        ...

    def read(self) -> pa.Table:
        """All of them, in order."""
        ...

    def joined(self, join: Join, asking: pa.Table) -> pa.Table:
        """``join(asking, rows)``, which looks only at rows of equal tenant and entity, as :func:`..fanout.partitioned`
        says, and at their order only where ``row_id`` is among their columns."""
        ...

    def reduced(self, reduce: Reduce, merge: Reduce) -> pa.Table:
        """``merge`` of what ``reduce`` gives for pieces of the rows, which may be cut anywhere."""
        ...


@dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows that this process holds."""

    table: pa.Table

    def only(self, columns: Sequence[str]) -> "HeldRows":
        return HeldRows(self.table.select(list(dict.fromkeys(columns))))

    def read(self) -> pa.Table:
        return self.table

    def joined(self, join: Join, asking: pa.Table) -> pa.Table:
        return join(asking, self.table)

    def reduced(self, reduce: Reduce, merge: Reduce) -> pa.Table:
        return merge(reduce(self.table))


@dataclass(frozen=True, slots=True)
class StoredRows:
    """Columns of the rows of ``source`` in its data files that were known by ``as_of``; of several versions of a row,
    the one that counts, where the table took its files in the order of ``files``. All but ``read`` runs over Ray."""

    data: DataFiles
    source: Source
    as_of: datetime
    files: tuple[str, ...]
    columns: tuple[str, ...]
    features: Features

    @property
    def num_rows(self) -> int:
        """How many the files hold."""
        return self.data.num_rows

    def only(self, columns: Sequence[str]) -> "StoredRows":
        return replace(self, columns=tuple(dict.fromkeys(columns)))

    def read(self) -> pa.Table:
        table = self.unsettled(_ORDER)
        return ordered(current_versions(table, self.source, self.files)).select(self.columns)

    def parts(self) -> Sequence[Any]:
        """Pieces in any order, as :func:`..fanout.shuffled` takes them: one for each file, or settled over Ray."""
        files = [_File(replace(self, data=part)) for part in self.data.parts()]
        if not self.versioned:
            return files
        bare = replace(self, data=replace(self.data, tasks=()))
        return shuffled(files, ["tenant", *self.source.unique], [bare._settled] * self._num)

    def empty(self) -> pa.Table:
        """No row of them."""
        kinds = self.data.schema()
        return pa.schema([kinds.field(name) for name in self.columns]).empty_table()

    def joined(self, join: Join, asking: pa.Table) -> pa.Table:
        join, most = partial(_in_order, join), self.features.rows_per_partition
        return partitioned(join, asking, self, keys=KEYS, partitions=self.features.partitions, max_rows=most)

    def mapped(self, make: Callable[[pa.Table], Any]) -> list[Any]:
        """What ``make`` gives for the rows, in order, of each partition of the entities."""
        return list(collected(shuffled(self.parts(), KEYS, [partial(_made, make)] * self._num)))

    def reduced(self, reduce: Reduce, merge: Reduce) -> pa.Table:
        pieces = collected(each(reduce, self.parts()))
        total = merge(next(pieces))
        for piece in pieces:
            total = merge(pa.concat_tables([total, piece]))
        return total

    def unsettled(self, more: Sequence[str] = ()) -> pa.Table:
        """Rows known in time, with what else it takes to tell which count, and ``more``."""
        by = [self.source.duplicates.by] if self.source.duplicates.by else []
        versions = ["tenant", *self.source.unique, *by, "row_id"] if self.versioned else []
        table = self._stored([*self.columns, "known_at", *more, *versions])
        return table.filter(pc.less_equal(table["known_at"], pa.scalar(self.as_of, STAMP)))

    @property
    def versioned(self) -> bool:
        """Whether the table keeps several versions of a row, of which one counts."""
        return self.source.duplicates.key in (Keep.last, Keep.latest) and bool(self.source.unique)

    @property
    def _num(self) -> int:
        return max(self.features.partitions, ceil(self.num_rows / self.features.rows_per_partition))

    def _stored(self, columns: Sequence[str]) -> pa.Table:
        """Rows as they lie; one without an entity is one of its own."""
        needed = tuple(dict.fromkeys(columns))
        table = replace(self.data, columns=needed).read()
        if "entity" not in needed or not table["entity"].null_count:
            return table
        if "row_id" not in needed:
            return self._stored([*needed, "row_id"])
        named = pc.coalesce(table["entity"], table["row_id"])
        return table.set_column(table.column_names.index("entity"), "entity", named)

    def _settled(self, table: pa.Table) -> pa.Table:
        return current_versions(table, self.source, self.files).select(self.columns)


@dataclass(frozen=True, slots=True)
class _File:
    """Rows of one file, with the columns that it takes to tell which count."""

    rows: StoredRows

    def read(self) -> pa.Table:
        table = self.rows.unsettled()
        return table if self.rows.versioned else table.select(self.rows.columns)


def ordered(table: pa.Table) -> pa.Table:
    """``table`` by tenant, entity, event time and row id, as far as it has them."""
    if not set(KEYS) <= set(table.column_names) or "event_time" not in table.column_names:
        return table.sort_by([(key, "ascending") for key in _ORDER if key in table.column_names])
    # Places of texts among the distinct ones, and row ids only where times are equal: a third of the time of sort_by.
    who = [_places(table[key]) for key in KEYS]
    times = np.asarray(table["event_time"].cast(pa.int64()))
    order = np.lexsort((times, *reversed(who)))
    same = [column[order[1:]] == column[order[:-1]] for column in (*who, times)]
    tied = np.flatnonzero(np.logical_and.reduce(same))
    if len(tied) and "row_id" in table.column_names:
        place = np.union1d(tied, tied + 1)
        ids = _places(table["row_id"].take(order[place]))
        group = np.cumsum(np.append(True, ~np.logical_and.reduce(same)))[place]
        order[place] = order[place][np.lexsort((ids, group))]
    return table.take(order)


def _places(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Of each text its place among the distinct ones in order; one that is absent comes last."""
    coded = column.combine_chunks().dictionary_encode()
    places = np.empty(len(coded.dictionary) + 1, dtype=np.int64)
    places[np.asarray(pc.array_sort_indices(coded.dictionary))] = np.arange(len(coded.dictionary))
    places[-1] = len(coded.dictionary)
    found: NDArray[np.int64] = places[np.asarray(coded.indices.fill_null(len(coded.dictionary)))]
    return found


def _in_order(join: Join, asking: pa.Table, rows: pa.Table) -> pa.Table:
    # Sorting takes as long as a join; without row ids nothing depends on the order.
    return join(asking, ordered(rows) if "row_id" in rows.column_names else rows)


def _made(make: Callable[[pa.Table], Any], rows: pa.Table) -> Any:
    return make(ordered(rows))
