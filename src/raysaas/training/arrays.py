"""From the Arrow training set to what encoders and learners take: columns, kinds and an encoded target."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.models.encodings import FOLD, NUM_FOLDS
from raysaas.records import Task
from raysaas.use_case import UseCase

PLATFORM_COLUMNS = ("row_id", "tenant", "entity", "event_time", "known_at", "split", "label", FOLD)
POSITIVE_NAMES = ("yes", "true", "1", "y", "t", "1.0", "positive", "pos", "churn", "churned", "fraud", "up", "bad")


def feature_names(table: pa.Table) -> list[str]:
    """Names of the feature columns of a training set, in their order."""
    return [name for name in table.column_names if name not in PLATFORM_COLUMNS]


def kinds(table: pa.Table) -> dict[str, str]:
    """The encoder's kind of each feature column: ``number``, ``integer``, ``boolean`` or ``category``."""
    return {name: _kind(table.schema.field(name).type) for name in feature_names(table)}


def columns(table: pa.Table) -> dict[str, np.ndarray]:
    """Feature columns as numpy: float64 with NaN for missing (booleans 0/1), or object arrays of ``str | None``.

    Where rows have folds, for the target encodings of a fit, they come along.
    """
    found = {name: _numpy(table.column(name)) for name in feature_names(table)}
    return found | ({FOLD: table.column(FOLD).to_numpy()} if FOLD in table.column_names else {})


def fit_columns(table: pa.Table) -> list[str]:
    """What a fit takes from a training set: features, label, folds."""
    return [*feature_names(table), "label", *(name for name in (FOLD,) if name in table.column_names)]


def with_folds(table: pa.Table) -> pa.Table:
    """``table`` with the fold of each train row, by its place among them in order of row id; -1 elsewhere."""
    folds = np.full(table.num_rows, -1, dtype=np.int8)
    train = np.flatnonzero(np.asarray(pc.equal(table.column("split"), "train")))
    order = np.argsort(np.asarray(table.column("row_id").cast(pa.string()))[train], kind="stable")
    folds[train[order]] = np.random.default_rng(0).permutation(np.arange(len(train)) % NUM_FOLDS)
    return table.append_column(FOLD, pa.array(folds))


def source_names(use_case: UseCase) -> dict[str, str]:
    """The file's own name of every column whose name in the file differs from its key."""
    sources = use_case.sources.values()
    return {key: column.column for source in sources for key, column in source.columns.items() if column.column}


def part(table: pa.Table, *splits: str) -> pa.Table:
    """The rows of the named splits (``train``, ``valid``, ``test``), in their order."""
    return table.filter(pc.is_in(table.column("split"), value_set=pa.array(splits, table.schema.field("split").type)))


def shard(table: pa.Table, rank: int, world: int) -> pa.Table:
    """Every ``world``-th row from ``rank``, wrapping around, so that all shards are equally long."""
    length = math.ceil(table.num_rows / world)
    return table.take((np.arange(length) * world + rank) % max(table.num_rows, 1))


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted, and how labels become numbers.

    ``labels`` is ``[negative, positive]`` (binary), the sorted classes (multi-class) or empty (regression, where
    ``mean`` and ``std`` standardise the value for the network).
    """

    task: Task
    labels: list[str]
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def fit(cls, table: pa.Table, task: Task, positive: str | None = None) -> "Target":
        """Learn labels or scale from the train and valid rows; ``InputError`` when there is nothing to tell apart."""
        label = part(table, "train", "valid").column("label")
        if task is Task.regression:
            values = _numpy(label)
            std = float(np.std(values)) if len(values) else 0.0
            if not np.isfinite(std) or std == 0.0:
                raise InputError(f"The label is constant or missing in {len(values)} training rows: expected numbers.")
            return cls(task, [], float(np.mean(values)), std)
        counts = {str(item["values"]): int(item["counts"]) for item in pc.value_counts(label.drop_null()).to_pylist()}
        if len(counts) < 2 or (task is Task.binary and len(counts) != 2):
            expected = "two classes" if task is Task.binary else "two or more classes"
            raise InputError(f"The label holds {sorted(counts)[:10]} in the training rows: expected {expected}.")
        return cls(task, _ordered(counts, positive) if task is Task.binary else sorted(counts))

    @property
    def outputs(self) -> int:
        """How many values a network gives per row."""
        return len(self.labels) if self.task is Task.multiclass else 1

    def encode(self, table: pa.Table, *, scaled: bool = True) -> np.ndarray:
        """Labels [n]: float32 (binary 0/1, regression standardised if ``scaled``) or int64 (multi-class)."""
        if self.task is Task.regression:
            values = _numpy(table.column("label"))
            return ((values - self.mean) / self.std if scaled else values).astype(np.float32)
        codes = pc.index_in(table.column("label").cast(pa.string()), value_set=pa.array(self.labels, pa.string()))
        if codes.null_count:
            unknown = pc.unique(table.column("label").filter(pc.is_null(codes))).to_pylist()
            raise InputError(f"The label {unknown[0]!r} was not seen in training: expected one of {self.labels[:10]}.")
        numbers: np.ndarray = codes.to_numpy().astype(np.float32 if self.task is Task.binary else np.int64)
        return numbers


def _ordered(counts: Mapping[str, int], positive: str | None) -> list[str]:
    """The two labels as ``[negative, positive]``: the named one, a usual name for it, or the rarer one."""
    if positive is not None and positive not in counts:
        raise InputError(f"The positive label {positive!r} is not in the data: expected one of {sorted(counts)}.")
    usual = [label for label in sorted(counts) if label.lower() in POSITIVE_NAMES]
    rarer = min(sorted(counts), key=lambda label: counts[label])
    chosen = positive or (usual[0] if len(usual) == 1 else rarer)
    return [label for label in sorted(counts) if label != chosen] + [chosen]


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    return "number" if pa.types.is_floating(kind) else "category"


def _numpy(values: pa.ChunkedArray) -> np.ndarray:
    kind = values.type
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = values.cast(pa.float64(), safe=False).to_numpy()
        return np.where(np.isfinite(numbers), numbers, np.nan)
    return np.array(values.cast(pa.string()).to_pylist(), dtype=object)
