"""Which examples are held back: the newest times where there are several, else a stable hash of who they are about."""

from collections.abc import Sequence
from datetime import UTC, datetime

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from raysaas.errors import InputError
from raysaas.use_case import Split, SplitBy

PARTS = ("train", "valid", "test")
MIN_TIMES = 3
_KEYS = {"row_id", "tenant", "entity", "event_time", "known_at", "moment"}
MIN_GROUPS = 50


def split(examples: pa.Table, spec: Split, *, timed: bool) -> pa.Array:
    """``train``, ``valid`` or ``test`` of each example.

    By time (``timed`` sources with at least three distinct ``moment``): the newest share is the test part, the newest
    share of the rest the valid part; one moment is never split. Else by hash of (tenant, entity), or of the row where
    entities are not named or fewer than fifty: copies of a row stay together. Raises InputError when a part would be
    empty.
    """
    moments = np.asarray(examples["moment"].cast(pa.int64()))
    times = len(np.unique(moments))
    forced = spec.by is SplitBy.time or spec.test_from is not None
    if forced and times < MIN_TIMES:
        raise InputError(f"a split by time needs {MIN_TIMES} distinct times, not {times}: set split.by=random.")
    if forced or (spec.by is SplitBy.auto and timed and times >= MIN_TIMES):
        parts = _by_time(moments, spec)
    else:
        unnamed = pc.all(pc.equal(examples["entity"], examples["row_id"])).as_py()  # the source names no entity
        by_row = unnamed or _num_groups(examples) < MIN_GROUPS
        hashes = _row_shares(examples) if by_row else shares(examples, ["tenant", "entity"])
        parts = _by_hash(hashes, spec.test, spec.valid)
    empty = [part for part in PARTS if not (parts == part).any()]
    if empty:
        raise InputError(
            f"{examples.num_rows} examples at {times} times leave no rows for {', '.join(empty)}: bring more data."
        )
    return pa.array(parts.tolist(), pa.string())


def shares(table: pa.Table, columns: Sequence[str]) -> NDArray[np.float64]:
    """A number in [0, 1) per row, equal for equal ``columns``, the same in every process and version."""
    names = ", ".join(f'"{column}"' for column in columns)
    with duckdb.connect() as connection:
        connection.register("rows", table.select(list(columns)))
        query = f"SELECT (md5_number_lower(concat_ws(chr(31), {names})) >> 11)::BIGINT AS share FROM rows"
        return np.asarray(connection.sql(query).fetchnumpy()["share"]) / 2.0**53


def _row_shares(examples: pa.Table) -> NDArray[np.float64]:
    """A share per row, the same for copies: equal in label and all features, where most rows are like no other.

    Where most rows have equals (a few categories only) that says nothing, and each row has a share of its own.
    """
    content = [name for name in examples.column_names if name not in _KEYS]
    if len(content) > 1:
        frame = examples.select(content).to_pandas()
        hashes = np.asarray(pd.util.hash_pandas_object(frame, index=False), dtype=np.uint64)
        if len(np.unique(hashes)) > len(hashes) / 2:
            return np.asarray((hashes >> np.uint64(11)).astype(np.float64) / 2.0**53)
    return shares(examples, ["row_id"])


def _num_groups(examples: pa.Table) -> int:
    return int(examples.select(["tenant", "entity"]).group_by(["tenant", "entity"]).aggregate([]).num_rows)


def _by_hash(hashes: NDArray[np.float64], test: float, valid: float) -> NDArray[np.str_]:
    return np.where(hashes < test, "test", np.where(hashes < test + (1 - test) * valid, "valid", "train"))


def _by_time(moments: NDArray[np.int64], spec: Split) -> NDArray[np.str_]:
    times, counts = np.unique(moments, return_counts=True)
    if spec.test_from:
        start = datetime.fromisoformat(spec.test_from)
        test_at = int((start if start.tzinfo else start.replace(tzinfo=UTC)).timestamp() * 1e6)
    else:
        test_at = times[_boundary(counts, spec.test, keep=2)]
    rest = times < test_at
    if rest.sum() < 2:
        raise InputError(
            f"use_case.examples.split.test_from={spec.test_from!r} leaves {rest.sum()} times before it: take a later."
        )
    valid_at = times[rest][_boundary(counts[rest], spec.valid, keep=1)]
    return np.where(moments >= test_at, "test", np.where(moments >= valid_at, "valid", "train"))


def _boundary(counts: NDArray[np.int64], share: float, keep: int) -> int:
    """Index of the first time of the last part, of about that share of the rows; ``keep`` times stay before it."""
    tail = counts[::-1].cumsum()[::-1] / counts.sum()
    return keep + int(np.abs(tail[keep:] - share).argmin())
