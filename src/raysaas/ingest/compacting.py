"""Maintenance of a source's tables: they stay small however often ingest commits, and forget nothing of what it took.

It is part of a watched source, which alone commits without end and whose job is there anyway; ``raysaas data compact``
does the same by hand. The log tables, to which every use case ships its decisions, come with it and with ``watch``.
"""

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from raysaas.errors import ConfigError
from raysaas.ingest.planning import Target
from raysaas.ingest.turns import turn
from raysaas.settings import Settings
from raysaas.stores.compaction import NEWEST, compact, compact_logs
from raysaas.stores.tables import MADE_FROM, Tables

ROUNDS = 100  # a watched source is compacted after so many rounds that took something


def compact_source(
    settings: Settings, name: str, tables: Tables, now: datetime, *, newest: int = NEWEST
) -> dict[str, Any]:
    """Merge small data files of a source's tables and of the logs, expire versions older than ``ingest.keep_hours``.

    Tagged versions stay, those that a training set names, and the ``newest``. Ray must be connected. Returns counts by
    table. Raises ConfigError (nothing may expire) and Unavailable (another job holds the table, or writes it).
    """
    hours = settings.ingest.keep_hours
    if hours is None:
        raise ConfigError("ingest.keep_hours is null: versions are kept for ever. Set a number of hours.")
    target, told = Target(settings.use_case.name, name), {}
    with turn(target.raw):
        named = _named(tables, target)
        for table in (target.raw, target.quarantine):
            done = compact(tables, table, before=now - timedelta(hours=hours), keep=named, newest=newest)
            told[table] = asdict(done)
    return told | compact_shipped(settings, tables, now, newest=newest)


def compact_shipped(settings: Settings, tables: Tables, now: datetime, *, newest: int = NEWEST) -> dict[str, Any]:
    """Merge the small files that ships leave in the log tables, as :func:`compact_source` does a source's.

    Nothing happens where versions are kept for ever.
    """
    hours = settings.ingest.keep_hours
    if hours is None:
        return {}
    with turn("log"):
        logs = compact_logs(tables, before=now - timedelta(hours=hours), newest=newest)
    return {table: asdict(done) for table, done in logs.items()}


def _named(tables: Tables, target: Target) -> set[int]:
    """The versions that a training set was made of."""
    records = (one["properties"].get(MADE_FROM) for one in tables.snapshots(f"training.{target.use_case}"))
    pins = [json.loads(record).get("snapshots", {}) for record in records if record]
    return {pin[target.raw] for pin in pins if target.raw in pin}
