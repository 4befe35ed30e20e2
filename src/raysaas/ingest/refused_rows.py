"""Rows that were refused: their shape in quarantine, and how they are taken out of the others. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.ingest.actions import DROPPED
from raysaas.ingest.binding import ROLES
from raysaas.ingest.casts import TIME, connection, flat
from raysaas.ingest.findings import Broken
from raysaas.use_case import OnBroken

ATTEMPT = "raysaas.attempt"  # property of commits: whose rows in quarantine belong to the batch
QUARANTINE = pa.schema([
    ("source_file", pa.string()), ("row_number", pa.int64()), ("rule", pa.string()), ("column", pa.string()),
    ("value", pa.string()), ("row", pa.string()), ("row_id", pa.string()), ("typed", pa.bool_()),
    ("attempt", pa.string()), ("known_at", TIME),
])  # fmt: skip


def quarantine(columns: list[pa.Array], now: datetime, *, typed: bool = False) -> pa.Table:
    """Build quarantine rows of the columns of ``QUARANTINE`` up to ``row_id``; ``tried`` fills in the attempt.

    ``row`` has the names and values of the file or, where ``typed``, those of the contract.
    """
    rest = [pa.scalar(typed), pa.scalar(""), pa.scalar(now, TIME)]
    return pa.table([*columns, *(pa.repeat(value, len(columns[0])) for value in rest)], schema=QUARANTINE)


def tried(refused: pa.Table, attempt: str) -> pa.Table:
    """Refused rows with the attempt to ingest them that found them."""
    at = QUARANTINE.get_field_index("attempt")
    return refused.set_column(at, QUARANTINE.field(at), pa.repeat(pa.scalar(attempt), refused.num_rows))


def to_json(table: pa.Table) -> pa.Array:
    """Each row as one JSON object."""
    with connection() as db:
        db.register("t", table)
        return flat(db.sql("SELECT to_json(t)::VARCHAR AS x FROM t").to_arrow_table()["x"])


@dataclass(frozen=True, slots=True)
class Taken:
    """Rows that stay, rows for quarantine, how many copies went, and what was only counted: copies and warnings."""

    kept: pa.Table
    refused: pa.Table
    copies: int
    told: tuple[Broken, ...]


def take_out(rows: pa.Table, found: pa.Table, files: Mapping[str, str], now: datetime) -> Taken:
    """Take the rows ``found`` (``pos`` is their position) out of ``rows``, but for those that are only warned of.

    ``files`` maps the first part of a row id to its source file.
    """
    warned, dropped = (pc.equal(found["action"], pa.scalar(str(does))) for does in (OnBroken.warn, DROPPED))
    refused, gone = found.filter(pc.invert(pc.or_(warned, dropped))), found.filter(pc.invert(warned))
    told = _told(rows, found.filter(pc.or_(warned, dropped)), files)
    if not gone.num_rows:
        return Taken(rows, QUARANTINE.empty_table(), 0, told)
    stay = np.ones(rows.num_rows, bool)
    stay[gone["pos"].to_numpy()] = False
    out = rows.take(refused["pos"])
    names, numbers = _places(out, files)
    own = out.select([name for name in out.column_names if name not in ("row_id", *ROLES)])
    rule, column, value = (flat(refused[name]) for name in ("rule", "column", "value"))
    lost = quarantine([names, numbers, rule, column, value, to_json(own), flat(out["row_id"])], now, typed=True)
    return Taken(rows.filter(pa.array(stay)), lost, gone.num_rows - refused.num_rows, told)


def _places(rows: pa.Table, files: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    """Source file and row number of rows, by their ids."""
    ids = pc.split_pattern(flat(rows["row_id"]), "-")
    digests, numbers = pc.list_element(ids, 0), pc.list_element(ids, 1).cast(pa.int64())
    return pa.array([files[digest] for digest in digests.to_pylist()], pa.string()), numbers


def _told(rows: pa.Table, found: pa.Table, files: Mapping[str, str]) -> tuple[Broken, ...]:
    """Count ``found`` per rule, column and action, each with the first one."""
    told = []
    firsts = found.append_column("i", pa.array(np.arange(found.num_rows))).group_by(["rule", "column", "action"])
    for group in firsts.aggregate([("i", "count"), ("i", "min")]).to_pylist():
        pos, value = (found[name][group["i_min"]].as_py() for name in ("pos", "value"))
        names, numbers = _places(rows.slice(pos, 1), files)
        place = names[0].as_py(), numbers[0].as_py()
        told.append(Broken(group["rule"], group["column"], group["i_count"], value, *place, group["action"]))
    return tuple(told)
