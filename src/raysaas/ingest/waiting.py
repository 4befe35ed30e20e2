"""Rows in quarantine that wait to be repaired: listed, written out for people, read back. Each has an id for good.

The id of a refused row is the row id that it would have had: the first part of its file's digest and its number there.
Rows of a batch that was refused as a whole do not wait: its file comes again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raysaas.errors import InputError
from raysaas.ingest.casts import connection
from raysaas.ingest.planning import Target
from raysaas.ingest.refused_rows import ATTEMPT, QUARANTINE
from raysaas.ingest.sources import describe, read
from raysaas.stores.tables import Tables

REPLAYED = "raysaas.replayed"
ID, WHY = "quarantine_id", "quarantine_why"


@dataclass(frozen=True, slots=True)
class Waiting:
    """``rows`` (schema ``QUARANTINE``, as last refused) wait; ``replayed`` ids are in the table; ``held`` rows belong
    to batches that were refused as a whole."""

    rows: pa.Table
    replayed: frozenset[str]
    held: int


def waiting(tables: Tables, target: Target) -> Waiting:
    """The rows of a source's quarantine that were not replayed yet, by file and row number."""
    snapshots = [s["properties"] for s in tables.history(target.raw)]
    replayed = frozenset(i for s in snapshots for i in unpacked(s.get(REPLAYED, "{}")))
    if tables.current(target.quarantine) is None or "attempt" not in tables.schema(target.quarantine).names:
        return Waiting(QUARANTINE.empty_table(), replayed, 0)
    rows = tables.read(target.quarantine, columns=QUARANTINE.names).select(QUARANTINE.names)
    mine = pc.is_in(rows["attempt"], pa.array([s[ATTEMPT] for s in snapshots if ATTEMPT in s], pa.string()))
    done = pc.is_in(rows["row_id"], pa.array(sorted(replayed), pa.string()))
    with connection() as db:
        db.register("t", rows.filter(pc.and_not(mine, done)))
        newest = db.sql(
            "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY row_id ORDER BY known_at DESC) = 1 "
            "ORDER BY source_file, row_number"
        ).to_arrow_table()
    return Waiting(newest.cast(QUARANTINE), replayed, rows.num_rows - int(pc.sum(mine).as_py() or 0))


def packed(ids: Iterable[str]) -> str:
    """Row ids as JSON: per file, ranges of row numbers."""
    files: dict[str, list[list[int]]] = {}
    for file, number in sorted((file, int(number)) for file, _, number in (i.partition("-") for i in ids)):
        ranges = files.setdefault(file, [])
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return json.dumps(files)


def unpacked(text: str) -> list[str]:
    """The row ids that ``packed`` wrote."""
    return [f"{f}-{n}" for f, ranges in json.loads(text).items() for a, b in ranges for n in range(a, b + 1)]


def values_of(row: str) -> dict[str, str | None]:
    """A refused row as text by column; none for what was no row at all."""
    told = json.loads(row, parse_float=str, parse_int=str)
    if not isinstance(told, dict):
        return {}
    return {key: _text(value) for key, value in told.items()}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def write_out(rows: pa.Table, path: Path) -> None:
    """Write waiting rows with their own columns, their id and why they were refused: CSV, or JSON Lines.

    Raises InputError for a path of another kind.
    """
    records = [
        {ID: row["row_id"], WHY: f"{row['rule']} {row['column']}".strip(), **values_of(row["row"])}
        for row in rows.to_pylist()
    ]
    names = list(dict.fromkeys([ID, WHY, *(name for record in records for name in record)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    elif path.suffix == ".csv":
        columns = {name: pa.array([record.get(name) for record in records], pa.string()) for name in names}
        pacsv.write_csv(pa.table(columns), str(path))
    else:
        raise InputError(f"{path}: expected a name that ends in .csv or .jsonl.")


def read_repaired(path: str) -> dict[str, dict[str, str | None]]:
    """Repaired rows by id, as ``write_out`` wrote them. Raises InputError for an id that is missing or comes twice."""
    table = read(describe(path))
    if ID not in table.column_names:
        raise InputError(
            f"{path} has no column {ID!r}: write the rows with `raysaas data quarantine list --out` first."
        )
    found: dict[str, dict[str, str | None]] = {}
    for number, row in enumerate(table.to_pylist(), 1):
        key = row.pop(ID)
        row.pop(WHY, None)
        if not key or key in found:
            raise InputError(f"{path} row {number}: {ID} is {'missing' if not key else f'{key!r} for a second time'}.")
        found[key] = {name: _text(value) for name, value in row.items()}
    return found


def repaired(rows: pa.Table, fixed: Mapping[str, Mapping[str, str | None]], done: frozenset[str]) -> pa.Table:
    """Those of the waiting ``rows`` that ``fixed`` names, with its values; ids in ``done`` are passed over.

    Raises InputError for an id that nothing waits under.
    """
    waits = set(rows["row_id"].to_pylist())
    strange = next((key for key in fixed if key not in waits and key not in done), None)
    if strange is not None:
        raise InputError(f"No refused row has the {ID} {strange!r}: list those that wait with `data quarantine list`.")
    mine = rows.filter(pc.is_in(rows["row_id"], pa.array(list(fixed), pa.string())))
    texts = [_merged(row, fixed[key]) for row, key in _pairs(mine, ("row", "row_id"))]
    return mine.set_column(mine.column_names.index("row"), "row", pa.array(texts, pa.string()))


def _pairs(rows: pa.Table, names: Sequence[str]) -> list[tuple[Any, ...]]:
    return list(zip(*(rows[name].to_pylist() for name in names), strict=True))


def _merged(row: str, new: Mapping[str, str | None]) -> str:
    """A row with the values of ``new`` under its own columns; what was no row gets all that are given."""
    own = values_of(row)
    values = {key: new.get(key, value) for key, value in own.items()}
    return json.dumps(values or {key: value for key, value in new.items() if value})
