"""Refused rows in words: how many, which rules they broke most often, and where to find one."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from raysaas.ingest.actions import DROPPED
from raysaas.ingest.findings import BatchFault, Broken
from raysaas.ingest.forgotten import FORGOTTEN
from raysaas.ingest.staging import Staged, merged
from raysaas.use_case import OnBroken

_COUNTED = (OnBroken.warn, DROPPED)


def num_read(staged: Iterable[Staged]) -> int:
    """Rows of all parts."""
    return sum(s.num_accepted + s.num_refused + s.num_copies for s in staged)


def num_refused(staged: Iterable[Staged]) -> int:
    """Rows that broke a rule."""
    return sum(s.num_refused for s in staged)


def rules(staged: Iterable[Staged]) -> list[Broken]:
    """Every broken rule over all parts, those broken most often first."""
    return sorted(merged(b for s in staged for b in s.broken), key=lambda one: -one.count)


def worst(staged: Iterable[Staged], most: int = 3) -> list[Broken]:
    """The rules that refused most rows, each with its total and its first example."""
    return [one for one in rules(staged) if one.action not in _COUNTED][:most]


def examples(staged: Iterable[Staged]) -> str:
    """The worst rules, each with the value of an example: for whoever must repair the file now."""
    return f"Worst: {'; '.join(map(example, worst(staged)))}."


def example(one: Broken) -> str:
    """A rule, how often it was broken, and where for instance."""
    return f"{one.named}: {one.count} (such as {one.value!r}, {one.file} row {one.row_number})"


def warning(staged: Sequence[Staged], quarantine: str, faults: Iterable[BatchFault] = ()) -> tuple[str, ...]:
    """What is to be said of the rows refused into table ``quarantine``, of copies, of rules that warn.

    One sentence each; it names places only, as results are logged.
    """
    refused, said = num_refused(staged), []
    if refused:
        were = "was" if refused == 1 else "were"
        told = ", ".join(map(_place, worst(staged)))
        said.append(f"{refused:,} of {num_read(staged):,} rows {were} refused into {quarantine}: {told}.")
    counted = [one for one in rules(staged) if one.action in _COUNTED]
    for one in (one for one in counted if one.action == DROPPED):
        what = "rows of forgotten tenants or entities" if one.rule == FORGOTTEN else "exact copies of other rows"
        said.append(f"{one.count:,} {what} were dropped, such as {_at(one)}.")
    warned = ", ".join(_place(one) for one in counted if one.action == OnBroken.warn)
    said += [f"Rows that break a rule that only warns were kept: {warned}."] if warned else []
    return (*said, *(f"{fault.rule}: {fault.said}." for fault in faults))


def _place(one: Broken) -> str:
    return f"{one.named}: {one.count:,} (such as {_at(one)})"


def _at(one: Broken) -> str:
    return f"row {one.row_number} of {PurePosixPath(one.file).name}"
