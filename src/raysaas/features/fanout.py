"""Joins fanned out over Ray by hash of the entity key, so that a worker holds one partition only."""

from collections.abc import Callable, Sequence

import duckdb
import numpy as np
import pyarrow as pa

Join = Callable[[pa.Table, pa.Table], pa.Table]


def partitioned(
    join: Join, asking: pa.Table, offered: pa.Table, *, keys: Sequence[str], partitions: int, max_rows: int
) -> pa.Table:
    """``join(asking, offered)``, in this process up to ``max_rows`` rows, over Ray tasks beyond that.

    ``join`` must keep the asking rows in their order and look only at offered rows of equal ``keys``; then the result
    is the same either way. Without a running Ray it stays in this process: a task costs more than a small join.
    """
    import ray

    if partitions < 2 or asking.num_rows + offered.num_rows <= max_rows or not ray.is_initialized():
        return join(asking, offered)
    task = ray.remote(num_cpus=0.5)(_apply)
    left, right = (_hashed(table, keys, partitions) for table in (asking, offered))
    rows = [np.flatnonzero(left == part) for part in range(partitions)]
    tasks = [
        task.remote(join, asking.take(rows[part]), offered.take(np.flatnonzero(right == part)))
        for part in range(partitions)
    ]
    joined = pa.concat_tables(ray.get(tasks), promote_options="permissive")
    return joined.take(np.argsort(np.concatenate(rows), kind="stable"))


def _apply(join: Join, asking: pa.Table, offered: pa.Table) -> pa.Table:
    return join(asking, offered)


def _hashed(table: pa.Table, keys: Sequence[str], partitions: int) -> np.ndarray:
    """Partition of each row; equal keys give equal partitions in every process."""
    selected = table.select(keys)
    parts = ", ".join(f'"{key}"::VARCHAR' for key in keys)
    with duckdb.connect() as connection:
        connection.register("selected", selected)
        part = f"md5_number_lower(concat_ws(chr(31), {parts})) % {partitions}"
        return np.asarray(connection.sql(f"SELECT ({part})::BIGINT AS part FROM selected").fetchnumpy()["part"])
