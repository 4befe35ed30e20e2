"""Small raw tables with the platform's columns, as ingest leaves them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from raysaas.settings import Settings, Storage
from raysaas.stores.tables import Tables
from raysaas.use_case import UseCase

T0 = datetime(2026, 1, 1, tzinfo=UTC)
NOW = T0 + timedelta(days=365)
STAMP = pa.timestamp("us", "UTC")


def day(number: float) -> datetime:
    """``number`` days after the first of January 2026."""
    return T0 + timedelta(days=number)


def raw(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of ``entity``, ``at`` (days), optional ``tenant``, ``known`` (days) and values."""
    columns: dict[str, Any] = {
        "row_id": [f"r{number:05d}" for number in range(len(rows))],
        "tenant": [row.get("tenant", "t") for row in rows],
        "entity": [row["entity"] for row in rows],
        "event_time": pa.array([day(row["at"]) for row in rows], STAMP),
        "known_at": pa.array([day(row.get("known", row["at"])) for row in rows], STAMP),
    }
    values = [name for name in rows[0] if name not in {"tenant", "entity", "at", "known"}]
    return pa.table({**columns, **{name: pa.array([row[name] for row in rows]) for name in values}})


def world(home: Path, use_case: UseCase, **sources: pa.Table) -> tuple[Settings, Tables]:
    """Settings with a private home and its Iceberg tables, holding ``sources``."""
    settings = Settings(use_case=use_case, storage=Storage(home=str(home)))
    tables = Tables(settings.storage)
    for name, table in sources.items():
        tables.append(f"raw.{use_case.name}__{name}", table)
    return settings, tables
