"""Work on the parts of a batch, fanned out over Ray Data: one block per part, one action per step."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

import pyarrow as pa
import ray.data

from raysaas.ingest.formats import Part
from raysaas.ingest.staging import Batch, Staged, decode, part_types, stage, types
from raysaas.use_case import ColumnType


def stage_all(batch: Batch) -> list[Staged]:
    """Check and stage every part; results in the order of the parts."""
    return _in_order(_fan_out(partial(stage, batch=batch), range(len(batch.parts))))


def each(task: Callable[[int], Staged], parts: Sequence[int]) -> list[Staged]:
    """Run ``task`` on the numbers ``parts``; results in the order of the parts."""

    def answers(numbers: pa.Table) -> pa.Table:
        told = [json.dumps(asdict(task(part))) for part in numbers["part"].to_pylist()]
        return pa.table({"result": pa.array(told, pa.string())})

    return _in_order(_fan_out(answers, parts))


def types_of(parts: tuple[Part, ...]) -> dict[str, set[ColumnType]]:
    """Types that all values of each column fit, over all parts."""
    # A Ray Data action costs seconds; one part is read here in less.
    few = len(parts) == 1
    found = [part_types(parts[0])] if few else _decoded(_fan_out(partial(types, parts=parts), range(len(parts))))
    fitting: dict[str, set[ColumnType]] = {}
    for one in found:
        for name, kinds in one.items():
            fitting[name] = fitting.get(name, set(kinds)) & set(kinds)
    return fitting


def _fan_out(task: Callable[[pa.Table], pa.Table], parts: Sequence[int]) -> list[str]:
    """Run ``task`` over the numbers of the parts, one Ray Data block each; return its column ``result``."""
    numbers = ray.data.from_items([{"part": i} for i in parts], override_num_blocks=len(parts))
    done = numbers.map_batches(task, batch_format="pyarrow", batch_size=None)
    done.context.enable_progress_bars = False
    return [row["result"] for row in done.take_all()]


def _in_order(results: list[str]) -> list[Staged]:
    return sorted(map(decode, results), key=lambda staged: staged.part)


def _decoded(results: list[str]) -> list[dict[str, list[ColumnType]]]:
    """Types by part, parts in order, so that columns keep the order of the first file."""
    return [row["types"] for row in sorted(map(json.loads, results), key=lambda row: row["part"])]
