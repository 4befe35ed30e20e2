"""Rows at a site: from a Parquet file or an Arrow table to what encoder and network take."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysaas.errors import InputError
from raysaas.models.encode import Encoder
from raysaas.records import Task

LABEL = "label"


def columns(table: pa.Table, kinds: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The named columns as the encoder takes them: float64 with NaN, or objects of str and None for categories.

    Infinities count as missing, as in training. So does a column that the site does not have: sites may know less than
    the cluster.
    """
    return {name: _column(table, name, kind) for name, kind in kinds.items()}


def _column(table: pa.Table, name: str, kind: str) -> np.ndarray:
    category = kind == "category"
    if name not in table.column_names:
        return np.full(table.num_rows, None if category else np.nan, dtype=object if category else np.float64)
    values = table.column(name)
    if category:
        return np.asarray(pc.cast(values, pa.string()).to_pylist(), dtype=object)
    numbers = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), dtype=np.float64)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def kinds_of(encoder: Encoder) -> dict[str, str]:
    """Kind by feature name, in the encoder's order."""
    return {field.name: field.kind for field in encoder.fields}


def targets(labels: pa.ChunkedArray, task: Task, classes: Sequence[str], target: tuple[float, float]) -> np.ndarray:
    """Labels as the network learns them: float32 0/1, int64 class index, or float32 standardised values.

    Raises InputError for a missing label or one that is not among ``classes``.
    """
    if labels.null_count:
        raise InputError(f"{labels.null_count} rows have no label: leave them out of the rows to train on.")
    if task is Task.regression:
        values = np.asarray(pc.cast(labels, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        return ((values - target[0]) / target[1]).astype(np.float32)
    index = pc.index_in(pc.cast(labels, pa.string()), value_set=pa.array(list(classes)))
    if index.null_count:
        strange = pc.unique(labels.filter(pc.is_null(index))).to_pylist()[:3]
        raise InputError(f"Labels {strange} are not among the model's classes {list(classes)}.")
    codes = np.asarray(index.to_numpy(zero_copy_only=False))
    return codes.astype(np.float32 if task is Task.binary else np.int64)


def read(path: Path) -> pa.Table:
    """A site's rows; InputError when the file is missing, is not Parquet, has no label column or no row."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: set the site's `rows` to a Parquet file.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    if LABEL not in table.column_names or table.num_rows == 0:
        raise InputError(f"{path} needs at least one row and a `{LABEL}` column; it has {table.column_names[:8]}.")
    return table
