"""The point-in-time join of rows that lie together by key and in order of time, as the platform writes its tables.

Finding the runs of equal keys is one pass without hashing; then the keys are joined run by run, and each asking row
bisects the times of its run. Random order, which shows at once, is left to the general join.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_SAMPLE_ROWS = 10_000
# With shorter runs there is nothing to gain.
_MIN_MEAN_RUN = 2


def grouped_matches(
    connection: duckdb.DuckDBPyConnection,
    offered: pa.Table,
    keys: Sequence[str],
    *,
    reach: int | None,
    cut: int | None,
    known_by_event: bool,
) -> dict[str, Integers] | None:
    """Row numbers ``asked`` and ``found`` of the view ``a`` of ``connection`` and of ``offered``; None for rows that
    lie otherwise, or where ``known`` hides some.

    ``offered`` holds ``keys``, ``t`` and perhaps ``known``, in ticks, as ``reach`` and ``cut`` are.
    """
    if not _plain(offered, keys) or _starts(offered.slice(0, _SAMPLE_ROWS), keys) is None:
        return None
    starts = _starts(offered, keys)
    if starts is None or _hidden(offered, cut, known_by_event):
        return None
    connection.register(
        "runs", offered.select(keys).take(starts).append_column("run", pa.array(np.arange(len(starts))))
    )
    named, equal = ", ".join(keys), " AND ".join(f"a.{key} = runs.{key}" for key in keys)
    known = " AND ".join(f"{key} IS NOT NULL" for key in keys)
    if connection.sql(f"SELECT 1 FROM runs WHERE {known} GROUP BY {named} HAVING count(*) > 1 LIMIT 1").fetchall():
        return None
    asked = connection.sql(f"SELECT a.i, a.t, runs.run FROM a JOIN runs ON {equal}").fetchnumpy()
    times = offered["t"].to_numpy()
    ends = np.append(starts[1:], offered.num_rows)
    low, at = starts[asked["run"]], asked["t"]
    found = _last(times, at, low, ends[asked["run"]])
    kept = found >= low
    if reach is not None:
        first = np.iinfo(np.int64).min + reach
        kept &= times[np.maximum(found, 0)] >= np.maximum(at, first) - reach
    return {"asked": asked["i"][kept], "found": found[kept]}


def _plain(offered: pa.Table, keys: Sequence[str]) -> bool:
    kinds = [offered.schema.field(key).type for key in keys]
    simple = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_date)
    times = [offered[name] for name in ("t", "known") if name in offered.column_names]
    return all(any(of(kind) for of in simple) for kind in kinds) and not any(column.null_count for column in times)


def _starts(offered: pa.Table, keys: Sequence[str]) -> Integers | None:
    """First row of each run of equal keys; None where runs are short or not in order of time and then of knowledge."""
    if offered.num_rows < _MIN_MEAN_RUN:
        return None
    same = np.ones(offered.num_rows - 1, dtype=bool)
    for key in keys:
        column = offered[key]
        same &= pc.equal(column.slice(1), column.slice(0, len(column) - 1)).fill_null(False).to_numpy()
    starts = np.append(0, np.flatnonzero(~same) + 1)
    if len(starts) * _MIN_MEAN_RUN > offered.num_rows:
        return None
    times = offered["t"].to_numpy()
    wrong = times[1:] < times[:-1]
    if "known" in offered.column_names:
        known = offered["known"].to_numpy()
        wrong |= (times[1:] == times[:-1]) & (known[1:] < known[:-1])
    return None if (wrong & same).any() else starts


def _hidden(offered: pa.Table, cut: int | None, known_by_event: bool) -> bool:
    """Whether some row is not known by ``cut``, or became known after it happened."""
    if cut is None and not known_by_event:
        return False
    known = offered["known"].to_numpy()
    late = known_by_event and bool((known > offered["t"].to_numpy()).any())
    return late or (cut is not None and bool((known > cut).any()))


def _last(times: Integers, at: Integers, low: Integers, high: Integers) -> Integers:
    """Of each span ``[low, high)`` of ``times`` the last index not after ``at``; ``low - 1`` where there is none."""
    low, high = low.copy(), high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        before = times[np.minimum(middle, len(times) - 1)] <= at
        low = np.where(open_ & before, middle + 1, low)
        high = np.where(open_ & ~before, middle, high)
    return low - 1
