"""Refused rows in words: how many, which rules they broke most often, and where to find one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from raysaas.ingest.staging import Broken, Staged


def num_read(staged: Iterable[Staged]) -> int:
    """Rows of all parts."""
    return sum(s.num_accepted + s.num_refused for s in staged)


def num_refused(staged: Iterable[Staged]) -> int:
    """Rows that broke a rule."""
    return sum(s.num_refused for s in staged)


def worst(staged: Iterable[Staged], most: int = 3) -> list[Broken]:
    """The rules that were broken most often over all parts, each with its total and its first example."""
    total: dict[tuple[str, str], Broken] = {}
    for one in (b for s in staged for b in s.broken):
        before = total.get((one.rule, one.column))
        total[one.rule, one.column] = replace(before, count=before.count + one.count) if before else one
    return sorted(total.values(), key=lambda one: -one.count)[:most]


def examples(staged: Iterable[Staged]) -> str:
    """The worst rules, each with the value of an example: for whoever must repair the file now."""
    told = [f"{_rule(b)}: {b.count} (such as {b.value!r}, {b.file} row {b.row_number})" for b in worst(staged)]
    return f"Worst: {'; '.join(told)}."


def warning(staged: Sequence[Staged], quarantine: str) -> tuple[str, ...]:
    """One sentence when rows were refused into table ``quarantine``; it names places only, as results are logged."""
    refused, broken = num_refused(staged), worst(staged)
    if not refused:
        return ()
    told = [f"{_rule(b)}: {b.count:,} (such as row {b.row_number} of {PurePosixPath(b.file).name})" for b in broken]
    were = "was" if refused == 1 else "were"
    return (f"{refused:,} of {num_read(staged):,} rows {were} refused into {quarantine}: {', '.join(told)}.",)


def _rule(one: Broken) -> str:
    return f"{one.rule} on {one.column}" if one.column else one.rule
