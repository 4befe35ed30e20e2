"""Contracts for people: how a batch kept its own, what waits in quarantine, a contract to begin with."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysaas.errors import ConfigError
from raysaas.settings import Settings

if TYPE_CHECKING:
    from raysaas.stores.tables import Tables


def report(settings: Settings, source: str) -> dict[str, Any]:
    """Write how the newest batch of ``source`` kept its contract, as HTML and JSON; paths and a summary.

    Raises NotFound when the source was never ingested.
    """
    from raysaas.ingest.contract_report import write_report

    return write_report(settings, _known(settings, source), _tables(settings))


def infer(settings: Settings, source: str) -> dict[str, Any]:
    """A contract that the newest version of ``source`` keeps, as YAML to put under ``use_case.sources.<source>``.

    Raises NotFound when the source was never ingested.
    """
    from raysaas.ingest.inferred_contract import infer_contract

    return infer_contract(settings.use_case, _known(settings, source), _tables(settings))


def refused(settings: Settings, source: str, rows: int, out: str | None) -> dict[str, Any]:
    """The rows of ``source`` that wait in quarantine, ``rows`` of them shown, all of them written to ``out``.

    Raises InputError for a file ``out`` that is neither CSV nor JSON Lines.
    """
    from raysaas.ingest.planning import Target
    from raysaas.ingest.waiting import waiting, write_out

    found = waiting(_tables(settings), Target(settings.use_case.name, _known(settings, source)))
    if out:
        write_out(found.rows, Path(out))
    shown = ("row_id", "source_file", "row_number", "rule", "column", "value", "row")
    listed = found.rows.select(shown).slice(0, rows).to_pylist()
    told = f"{found.held} more rows belong to batches that were refused as a whole: ingest the repaired file."
    return {
        "source": source, "waiting": found.rows.num_rows, "replayed": len(found.replayed),
        "rows": [{"quarantine_id": row.pop("row_id"), **row} for row in listed], "out": out,
        "note": told if found.held else "",
    }  # fmt: skip


def replay(settings: Settings, source: str, fixed: str | None) -> dict[str, Any]:
    """Put refused rows of ``source`` through its contract again, each exactly once. Ray must be connected.

    ``fixed`` is a file of repaired rows; without it all that wait are tried as they were. Raises NotFound (nothing was
    ever ingested), InputError (``fixed`` is wrong), Unavailable (another job holds the table for too long).
    """
    from raysaas.ingest import replaying
    from raysaas.ingest.planning import Target
    from raysaas.ingest.turns import turn

    tables = _tables(settings)
    fixed = str(Path(fixed).absolute()) if fixed and "://" not in fixed else fixed
    with turn(Target(settings.use_case.name, _known(settings, source)).raw):
        done = replaying.replay(settings, source, tables, fixed, datetime.now(UTC))
    broken = [{"rule": one.rule, "column": one.column, "count": one.count} for one in done.findings.rules]
    return {
        "source": source, "tried": done.tried, "accepted": done.accepted, "refused": done.refused,
        "skipped": done.skipped, "snapshot_id": done.snapshot_id, "broken": broken,
    }  # fmt: skip


def compact(settings: Settings, source: str) -> dict[str, Any]:
    """Merge small files of the tables of ``source`` and expire old versions. Ray must be connected.

    Raises ConfigError (no such source, nothing may expire), Unavailable (others hold or write the table).
    """
    from raysaas.ingest.compacting import compact_source

    return compact_source(settings, _known(settings, source), _tables(settings), datetime.now(UTC))


def _known(settings: Settings, source: str) -> str:
    sources = settings.use_case.sources
    if source not in sources:
        known = ", ".join(sources)
        raise ConfigError(f"use_case {settings.use_case.name} has no source {source!r}: expected one of {known}.")
    return source


def _tables(settings: Settings) -> "Tables":
    from raysaas.stores.tables import Tables

    return Tables(settings.storage)
