"""Rules of a whole batch: how fresh, how many rows, how many nulls, also against the batch before. Pure."""

from collections.abc import Iterator
from datetime import datetime

from raysaas.ingest.actions import action
from raysaas.ingest.findings import BatchFault, Findings
from raysaas.use_case import Source


def broken_bounds(source: Source, batch: Findings, last: Findings | None, now: datetime) -> tuple[BatchFault, ...]:
    """The rules of ``source`` that its accepted rows break as a batch; ``last`` is the last batch that was accepted."""
    found = [*_freshness(source, batch, now), *_rows(source, batch, last), *_nulls(source, batch, last)]
    return tuple(BatchFault(rule, column, said, action(source, rule, column)) for rule, column, said in found)


def _freshness(source: Source, batch: Findings, now: datetime) -> Iterator[tuple[str, str, str]]:
    if source.max_age_hours is None or batch.newest is None:
        return
    age = (now - datetime.fromisoformat(batch.newest)).total_seconds() / 3600
    if age > source.max_age_hours:
        said = f"the newest event is {age:,.1f} hours old ({batch.newest}), over {source.max_age_hours:g}"
        yield "max_age_hours", source.time or "", said


def _rows(source: Source, batch: Findings, last: Findings | None) -> Iterator[tuple[str, str, str]]:
    bounds, rows = source.bounds, batch.accepted
    if bounds.min_rows is not None and rows < bounds.min_rows:
        yield "min_rows", "", f"{rows:,} rows, under {bounds.min_rows:,}"
    if bounds.max_rows is not None and rows > bounds.max_rows:
        yield "max_rows", "", f"{rows:,} rows, over {bounds.max_rows:,}"
    if last is None or not last.accepted:
        return
    ratio = rows / last.accepted
    said = f"{rows:,} rows, {ratio:.2f} of the {last.accepted:,} of the last batch"
    if bounds.min_row_ratio is not None and ratio < bounds.min_row_ratio:
        yield "min_row_ratio", "", f"{said}, under {bounds.min_row_ratio:g}"
    if bounds.max_row_ratio is not None and ratio > bounds.max_row_ratio:
        yield "max_row_ratio", "", f"{said}, over {bounds.max_row_ratio:g}"


def _nulls(source: Source, batch: Findings, last: Findings | None) -> Iterator[tuple[str, str, str]]:
    for column, nulls in batch.nulls.items() if batch.accepted else ():
        rate, spec = nulls / batch.accepted, source.columns.get(column)
        if spec is not None and spec.max_null_rate is not None and rate > spec.max_null_rate:
            yield "max_null_rate", column, f"{rate:.2%} of {column} is null, over {spec.max_null_rate:.2%}"
        most = source.bounds.max_null_increase
        if most is None or last is None or not last.accepted or column not in last.nulls:
            continue
        before = last.nulls[column] / last.accepted
        if rate - before > most:
            said = f"{rate:.2%} of {column} is null, {before:.2%} of the last batch: an increase over {most:.2%}"
            yield "max_null_increase", column, said
