"""Decisions with the outcomes that were reported for them, from Iceberg and from what is not shipped yet.

An outcome belongs to a decision of the same tenant, by the decision's id or by the caller's own key, whichever came
first. Of several the one observed last counts, then the one that came last; nothing was observed later than it came.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyiceberg.expressions import And, BooleanExpression, EqualTo, GreaterThanOrEqual, Or

from raysaas.settings import Storage
from raysaas.stores import journal
from raysaas.stores.logs import SCHEMAS, TIME, as_table, completed
from raysaas.stores.tables import Tables

# Reads decisions and outcomes; one row per decision. Times are microseconds, so that no time zone plays a part.
JOINED = """
WITH made AS (SELECT DISTINCT ON (id) * FROM decisions ORDER BY id),
told AS (
    SELECT m.id, o.label AS outcome, coalesce(o.known_at, o.observed_at) AS known_at,
        least(o.observed_at, coalesce(o.known_at, o.observed_at)) AS observed_at
    FROM made m JOIN outcomes o ON o.tenant = m.tenant AND o.decision_id = m.id
    UNION ALL
    SELECT m.id, o.label, coalesce(o.known_at, o.observed_at), least(o.observed_at, coalesce(o.known_at, o.observed_at))
    FROM made m JOIN outcomes o ON o.tenant = m.tenant AND o.key = m.key AND o.decision_id IS NULL
),
last AS (
    SELECT id, outcome, observed_at, known_at, count(*) OVER (PARTITION BY id) AS num_told FROM told
    WHERE outcome IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY id ORDER BY observed_at DESC, known_at DESC, outcome DESC) = 1
)
SELECT m.*, l.outcome, l.observed_at, l.known_at, coalesce(l.num_told, 0) AS num_told
FROM made m LEFT JOIN last l USING (id) ORDER BY m.time, m.id
"""
_TIMES = ("time", "observed_at", "known_at")


@dataclass(frozen=True, slots=True)
class Matured:
    """``rows``: the columns of ``log.decisions`` and, null without one, ``outcome``, ``observed_at``, ``known_at``;
    ``num_told`` counts the reports. ``snapshots`` are the versions read, ``unshipped`` the journal records beside them.
    """

    rows: pa.Table
    snapshots: Mapping[str, int | None] = field(default_factory=dict)
    unshipped: Mapping[str, int] = field(default_factory=dict)


def matured(
    storage: Storage, use_case: str, *, tenant: str | None = None, since: datetime | None = None, inputs: bool = False
) -> Matured:
    """All decisions of a use case with what became of them; ``inputs`` (JSON) only where they are asked for."""
    # Journals before tables: what is shipped between the two is seen twice, and counts once.
    fresh = {kind: journal.pending(storage.journal or "", use_case, kind) for kind in ("decisions", "outcomes")}
    tables, read, snapshots = Tables(storage), {}, {}
    for kind, records in fresh.items():
        name, schema = f"log.{kind}", SCHEMAS[kind]
        snapshots[name] = tables.current(name)
        parts = [as_table([r for r in records if tenant in (None, r["tenant"])], kind)]
        if snapshots[name]:
            where = _where(use_case, tenant, since if kind == "decisions" else None)
            known = [column for column in tables.schema(name).names if inputs or column not in ("inputs", "given")]
            parts.append(tables.read(name, snapshot=snapshots[name], columns=known, where=where))
        read[kind] = pa.concat_tables([completed(part, schema) for part in parts])
    rows = joined(read["decisions"], read["outcomes"])
    if since is not None:
        rows = rows.filter(pc.greater_equal(rows["time"], pa.scalar(since, TIME)))
    return Matured(rows, snapshots, {f"log.{kind}": len(records) for kind, records in fresh.items()})


def joined(decisions: pa.Table, outcomes: pa.Table) -> pa.Table:
    """:data:`JOINED` over Arrow tables with the columns of the log tables."""
    with duckdb.connect() as connection:
        connection.register("decisions", _as_micros(decisions))
        connection.register("outcomes", _as_micros(outcomes))
        rows = connection.sql(JOINED).to_arrow_table()
    for name in _TIMES:
        rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.int64()).cast(TIME))
    return rows


def reports(storage: Storage, decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every outcome that was reported for a decision, in the order in which they count: the last one does."""
    mine = {"use_case": decision["use_case"], "tenant": decision["tenant"]}
    key = decision.get("key")
    told = _logged(storage, "outcomes", mine, {"decision_id": decision["id"], **({"key": key} if key else {})})
    for report in told:
        report["known_at"] = report["known_at"] or report["observed_at"]
        report["observed_at"] = min(report["observed_at"], report["known_at"])
    told = [
        report for report in told if report["label"] is not None and report["decision_id"] in (None, decision["id"])
    ]
    return sorted(told, key=lambda one: (one["observed_at"], one["known_at"], one["label"]))


def shadows(storage: Storage, decision: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What shadow versions would have answered, by version."""
    mine = {"use_case": decision["use_case"], "tenant": decision["tenant"]}
    found = _logged(storage, "shadows", mine, {"decision_id": decision["id"]})
    return sorted(found, key=lambda one: int(one["version"]))


def _logged(storage: Storage, kind: str, every: Mapping[str, str], either: Mapping[str, str]) -> list[dict[str, Any]]:
    """Records of a kind that have all of one set of values and one of another; journal first, as in :func:`matured`."""

    def fits(record: Mapping[str, Any]) -> bool:
        own = any(record.get(name) == value for name, value in either.items())
        return own and all(record.get(name) == value for name, value in every.items())

    fresh = [record for record in journal.pending(storage.journal or "", every["use_case"], kind) if fits(record)]
    parts, tables, name = [as_table(fresh, kind)], Tables(storage), f"log.{kind}"
    if tables.current(name):
        known = set(tables.schema(name).names)
        choices = [EqualTo(column, value) for column, value in either.items() if column in known]
        where = reduce(And, [EqualTo(column, value) for column, value in every.items()], reduce(Or, choices))
        parts.append(tables.read(name, where=where))
    rows = pa.concat_tables([completed(part, SCHEMAS[kind]) for part in parts]).to_pylist()
    return [row for i, row in enumerate(rows) if row not in rows[:i]]  # shipped meanwhile: seen twice


def write_rows(path: str | Path, rows: pa.Table) -> None:
    """Write rows to a Parquet file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def _where(use_case: str, tenant: str | None, since: datetime | None) -> BooleanExpression:
    where: BooleanExpression = EqualTo("use_case", use_case)
    if tenant is not None:
        where = And(where, EqualTo("tenant", tenant))
    return where if since is None else And(where, GreaterThanOrEqual("time", since.isoformat()))


def _as_micros(table: pa.Table) -> pa.Table:
    for position, column in enumerate(table.schema):
        if pa.types.is_timestamp(column.type):
            table = table.set_column(position, column.name, table[column.name].cast(TIME).cast(pa.int64()))
    return table
