"""Window aggregates of many cuts over many rows in little more time than sorting takes, however often a key is cut.

The cuts lie in order of key and time, each in a place. From when a row may be seen until it leaves the window it is in
the windows of neighbouring places: a span. So every aggregate asks which spans lie over each place, and neither a key
of many rows with many cuts nor a row that became known late makes pairs of rows and cuts.
"""

from collections.abc import Sequence
from functools import cached_property

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysaas.features.exact_sums import span_counts, span_sums
from raysaas.view import SINCE

Integers = NDArray[np.int64]

_DAY_US = 86_400_000_000
_NEVER = np.iinfo(np.int64).min
_FLOORS = ("count", "sum", "distinct")  # of nothing they are 0


class Sweep:
    """Cuts (view ``a`` of ``connection``: keys ``k0``..., ``t``, ``i``) and the rows that some cut sees (``o``).

    Times and ``windows`` are in microseconds. With ``known_by_event`` a cut sees rows whose ``known`` is not after it.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, num_keys: int, windows: Sequence[int], known_by_event: bool
    ) -> None:
        self._connection = connection
        keys = [f"k{position}" for position in range(num_keys)]
        there = " AND ".join(f"{key} IS NOT NULL" for key in keys)
        equal = " AND ".join(f"x.{key} = g.{key}" for key in keys)
        named = f"SELECT *, row_number() OVER () - 1 AS g FROM (SELECT DISTINCT {', '.join(keys)} FROM a WHERE {there})"
        connection.execute(f"CREATE TEMP TABLE g AS {named}")
        cuts = connection.sql(f"SELECT x.i, x.t, g.g FROM a x JOIN g ON {equal}").fetchnumpy()
        order = np.lexsort((cuts["t"], cuts["g"]))
        self.num_asking = connection.sql("SELECT count(*) FROM asking").fetchall()[0][0]
        self.asking, self.times = cuts["i"][order], cuts["t"][order]
        self._starts = np.append(0, np.cumsum(np.bincount(cuts["g"])))
        rows = connection.sql(f"SELECT x.i, x.t, x.known, g.g FROM o x JOIN g ON {equal}").fetchnumpy()
        self._take_rows(rows, windows, known_by_event)

    def _take_rows(self, rows: dict[str, Integers], windows: Sequence[int], known_by_event: bool) -> None:
        low, high = self._starts[rows["g"]], self._starts[rows["g"] + 1]
        seen = np.maximum(rows["t"], rows["known"]) if known_by_event else rows["t"]
        first = _first(self.times, seen, low, high)
        kept = first < high
        self.rows, self.at, self.known = (rows[name][kept] for name in ("i", "t", "known"))
        self.first, self.last = first[kept], high[kept]
        self.ends = {span: _first(_back(self.times, span), self.at, self.first, self.last) for span in windows}

    def column(self, function: str, values: pa.ChunkedArray | None, window: int) -> pa.Array:
        """``function`` of the ``values`` in each cut's window, null ones left out; without values, of the rows.

        ``since_last`` and ``since_first`` are of all history, in days.
        """
        end, size = self.ends.get(window, self.last), len(self.times)
        if function in SINCE:
            return self._placed(self._since(function))
        if values is None:
            return self._placed(pa.array(span_counts(self.first, end, size)), 0)
        used = end > self.first
        if values.null_count:
            used &= np.asarray(values.is_valid())[self.rows]
        at = np.flatnonzero(used)
        return self._placed(self._of(function, values, at, end[at]), 0 if function in _FLOORS else None)

    def _since(self, function: str) -> pa.Array:
        sign = 1 if function == "since_last" else -1
        edge = covering_max(self.first, self.last, sign * self.at, len(self.times))
        return pa.array((self.times - sign * edge) / _DAY_US, mask=edge == _NEVER)

    def _of(self, function: str, column: pa.ChunkedArray, at: Integers, end: Integers) -> pa.Array:
        first, size = self.first[at], len(self.times)
        values = column.take(pa.array(self.rows[at])).combine_chunks()
        if function in ("sum", "mean"):
            return _sums(function, first, end, np.asarray(values.cast(pa.float64(), safe=False)), size)
        if function == "last":
            order = np.lexsort((self.rows[at], self.known[at], self.at[at]))
            rank = np.empty_like(order)
            rank[order] = np.arange(len(order))
            return _chosen(values, order, covering_max(first, end, rank, size))
        rank = _ranks(self._connection, values)
        if function == "distinct":
            return pa.array(span_counts(*_apart(first, end, rank, size), size))
        if function == "min":
            rank = rank.max(initial=0) - rank
        row = np.zeros(len(rank), dtype=np.int64)
        row[rank] = np.arange(len(rank))
        return _chosen(values, row, covering_max(first, end, rank, size))

    def _placed(self, found: pa.Array, nothing: int | None = None) -> pa.Array:
        """What was found for each place, for each asking row; ``nothing`` for one without key or time."""
        index = pa.array(self._place, mask=self._place < 0)
        placed = found.take(index)
        return placed if nothing is None else placed.fill_null(nothing)

    @cached_property
    def _place(self) -> Integers:
        place = np.full(self.num_asking, -1, dtype=np.int64)
        place[self.asking] = np.arange(len(self.asking))
        return place


def covering_max(first: Integers, end: Integers, values: Integers, size: int) -> Integers:
    """The greatest of the ``values`` of all spans ``[first, end)`` over each of ``size`` places; the least of all
    integers where none is.

    A sparse table turned around: a span is two overlapping ones whose lengths are a power of two, and those of one
    length are halved once all longer ones were.
    """
    best = np.full(size, _NEVER)
    level = np.frexp(end - first)[1] - 1
    for power in range(int(level.max(initial=0)), -1, -1):
        mine = np.flatnonzero(level == power)
        np.maximum.at(best, first[mine], values[mine])
        if power:
            np.maximum.at(best, end[mine] - (1 << power), values[mine])
            half = 1 << (power - 1)
            best[half:] = np.maximum(best[half:], best[:-half])
    return best


def _first(times: Integers, at: Integers, low: Integers, high: Integers) -> Integers:
    """Of each span ``[low, high)`` of ``times`` the first index not before ``at``; ``high`` where there is none."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = times[np.minimum(middle, len(times) - 1)] < at
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low


def _back(times: Integers, span: int) -> Integers:
    """``times`` earlier by ``span``; those near the first of all must not overflow."""
    return np.maximum(times, _NEVER + span) - span


def _sums(function: str, first: Integers, end: Integers, values: NDArray[np.float64], size: int) -> pa.Array:
    total = span_sums(first, end, values, size)
    if function == "sum":
        return pa.array(total)
    count = span_counts(first, end, size)
    return pa.array(total / np.maximum(count, 1), mask=count == 0)


def _ranks(connection: duckdb.DuckDBPyConnection, values: pa.Array) -> Integers:
    """The place of each value among the distinct ones in order; any type that DuckDB can sort."""
    connection.register("v", pa.table({"x": values, "i": np.arange(len(values))}))
    ranks = connection.sql("SELECT i, dense_rank() OVER (ORDER BY x) - 1 AS n FROM v").fetchnumpy()
    found = np.empty(len(values), dtype=np.int64)
    found[ranks["i"]] = ranks["n"]
    return found


def _apart(first: Integers, end: Integers, rank: Integers, size: int) -> tuple[Integers, Integers]:
    """The spans without what earlier spans of equal ``rank`` cover."""
    order = np.lexsort((first, rank))
    first, end, rank = first[order], end[order], rank[order]
    # Ranks further apart than any two places: a running maximum starts anew with each of them.
    covered = np.maximum.accumulate(rank * (size + 1) + end) - rank * (size + 1)
    before = np.where(np.diff(rank, prepend=-1) == 0, np.append(0, covered[:-1]), 0)
    first = np.maximum(first, before)
    return first, np.maximum(first, end)


def _chosen(values: pa.Array, row: Integers, best: Integers) -> pa.Array:
    """Of each place the value in the ``row`` of its ``best`` rank."""
    none = best == _NEVER
    return values.take(pa.array(row[np.where(none, 0, best)] if len(row) else best, mask=none))
