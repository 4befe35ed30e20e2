"""How a source's newest batch kept its contract: one page for people, one JSON object for programs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raysaas.errors import NotFound
from raysaas.ingest.contract_page import page
from raysaas.ingest.findings import Findings
from raysaas.ingest.history import history, with_values
from raysaas.ingest.planning import Target
from raysaas.settings import Settings
from raysaas.stores.tables import Tables
from raysaas.use_case import OnBroken

_TREND = 30


def report_paths(home: str | Path, use_case: str, source: str) -> tuple[Path, Path]:
    """Where the page and the JSON of a source lie: ``<home>/reports/contract/<use_case>__<source>.html``, ``.json``."""
    stem = Path(home) / "reports" / "contract" / f"{use_case}__{source}"
    return stem.with_suffix(".html"), stem.with_suffix(".json")


def write_report(settings: Settings, name: str, tables: Tables, newest: Findings | None = None) -> dict[str, Any]:
    """Write both for source ``name`` and return their paths with a summary; ``newest`` is known with its values.

    Raises NotFound when no batch of the source was ever looked at.
    """
    target = Target(settings.use_case.name, name)
    told = [one for one in history(tables, target) if one.kind == "files"]
    if newest is None and not told:
        raise NotFound(f"No batch of source {name!r} was ever checked: ingest it first.")
    batch = newest or with_values(told[-1], tables, target)
    facts = _facts(settings, name, batch, told[-_TREND:])
    html, data = report_paths(settings.storage.home, settings.use_case.name, name)
    html.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((html, page(facts)), (data, json.dumps(facts, indent=1, default=str))):
        draft = path.with_suffix(".tmp")
        draft.write_text(text)
        draft.rename(path)
    counts = {key: facts[key] for key in ("verdict", "read", "accepted", "refused", "duplicates", "warned")}
    return {"source": name, **counts, "html": str(html), "json": str(data)}


def _facts(settings: Settings, name: str, batch: Findings, told: list[Findings]) -> dict[str, Any]:
    rules = [{**asdict(one), "share": one.count / max(batch.read, 1)} for one in batch.rules]
    columns = [
        {"column": column, "nulls": nulls, "null_rate": nulls / max(batch.accepted, 1)}
        for column, nulls in batch.nulls.items()
    ]
    trend = [
        {"at": one.at, "read": one.read, "accepted": one.accepted, "refused": one.refused, "committed": one.committed}
        for one in told
    ]
    return {
        "use_case": settings.use_case.name, "source": name, "verdict": verdict(batch), "at": batch.at,
        "read": batch.read, "accepted": batch.accepted, "refused": batch.refused, "duplicates": batch.duplicates,
        "warned": batch.warned, "newest_event": batch.newest, "error_budget": settings.ingest.error_budget,
        "batch_rules": [asdict(fault) for fault in batch.faults], "rules": rules, "columns": columns, "trend": trend,
    }  # fmt: skip


def verdict(batch: Findings) -> str:
    """The batch in one word: ``refused``, ``accepted`` or, where a rule was broken, ``accepted with findings``."""
    if not batch.committed:
        return "refused"
    quiet = not batch.rules and not [f for f in batch.faults if f.action == OnBroken.warn]
    return "accepted" if quiet else "accepted with findings"
