"""Refused rows through the contract again, each exactly once.

The ids of accepted rows stand in the properties of the commit that takes them, so a run that dies at any point leaves
them either waiting or taken. Rows that are refused again go to quarantine with the new reason, before that commit;
the listing shows the newest. Order between rows is that of the files, whenever a row was repaired.
"""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import NotFound
from raysaas.faults import reached
from raysaas.ingest.across import BEHIND, FOUND, POS, behind, key_columns, keys_of
from raysaas.ingest.binding import ROLES
from raysaas.ingest.contract import Checked, check_rows
from raysaas.ingest.findings import PROPERTY, Findings
from raysaas.ingest.forgotten import unkept, unread
from raysaas.ingest.formats import Block
from raysaas.ingest.planning import STORED, Target, data_dir, remove_leftovers
from raysaas.ingest.refused_rows import ATTEMPT, QUARANTINE, Taken, take_out, tried
from raysaas.ingest.settling import Referenced, database, find, references
from raysaas.ingest.sinks import Sink
from raysaas.ingest.staging import merged, tally
from raysaas.ingest.waiting import REPLAYED, packed, read_repaired, repaired, values_of, waiting
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables, commit_order
from raysaas.stores.tombstones import tombstones
from raysaas.use_case import Column, ColumnType, Duplicates, Keep, Source


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many rows were tried, accepted and refused again; ``skipped`` were in the table already."""

    tried: int
    accepted: int
    refused: int
    skipped: int
    snapshot_id: int
    findings: Findings


def replay(settings: Settings, name: str, tables: Tables, fixed: str | None, now: datetime) -> Replayed:
    """Put the rows that wait in the quarantine of source ``name`` through its contract, or those of file ``fixed``.

    The caller holds the table's turn. Raises NotFound (nothing was ever ingested), InputError (``fixed`` is wrong).
    """
    target = Target(settings.use_case.name, name)
    if tables.current(target.raw) is None:
        raise NotFound(f"Source {name!r} has no committed rows: ingest it before rows of it are replayed.")
    wait, skipped = waiting(tables, target), 0
    rows = wait.rows
    if fixed is not None:
        new = read_repaired(fixed)
        rows, skipped = repaired(rows, new, wait.replayed), len(wait.replayed & set(new))
    done = _checked(rows, settings, name, tables, now)
    taken = done.kept.num_rows
    found = Findings(
        at=now.isoformat(), kind="replay", read=rows.num_rows, accepted=taken, refused=rows.num_rows - taken,
        rules=merged([*tally(done.refused, settings.use_case.sources[name]), *done.told]),
    )  # fmt: skip
    _commit(done, rows, wait.rows, tables, target, found)
    return Replayed(rows.num_rows, taken, rows.num_rows - taken, skipped, tables.current(target.raw) or 0, found)


def _checked(rows: pa.Table, settings: Settings, name: str, tables: Tables, now: datetime) -> Taken:
    """Row rules file by file, then the rules across rows over all of them."""
    target, source = Target(settings.use_case.name, name), _kept_whole(settings.use_case.sources[name])
    parts = [_check(group, source, tables, target, settings, now) for group in _groups(rows)]
    refused = [part.refused for part in parts]
    accepted = [part.accepted for part in parts if part.accepted.num_rows]
    told = tuple(one for part in parts for one in part.told)
    if not accepted:
        return Taken(pa.table({}), pa.concat_tables([QUARANTINE.empty_table(), *refused]), 0, told)
    kept = pa.concat_tables(accepted, promote_options="default")
    files = dict(zip(*(_first_parts(rows), rows["source_file"].to_pylist()), strict=True))
    found = _across(kept, source, tables, target, references(settings.use_case, name, tables))
    late = take_out(kept, found, files, now)
    return Taken(late.kept, pa.concat_tables([*refused, late.refused]), late.copies, (*told, *late.told))


def _kept_whole(source: Source) -> Source:
    """The contract of replayed rows: none is dropped without a word, as each waits until it is taken."""
    return replace(source, duplicates=replace(source.duplicates, exact=Keep.all))


def _first_parts(rows: pa.Table) -> list[str]:
    return [i.partition("-")[0] for i in rows["row_id"].to_pylist()]


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    """Rows of one attempt, one file and one kind of names at a time; rows that are none are left out."""
    told = pc.starts_with(pc.utf8_ltrim_whitespace(rows["row"]), "{")
    rows = rows.filter(told)
    keys = list(zip(rows["attempt"].to_pylist(), _first_parts(rows), rows["typed"].to_pylist(), strict=True))
    for key in dict.fromkeys(keys):
        yield rows.filter(pa.array([one == key for one in keys]))


def _check(
    rows: pa.Table, source: Source, tables: Tables, target: Target, settings: Settings, now: datetime
) -> Checked:
    values = [values_of(row) for row in rows["row"].to_pylist()]
    names = list(dict.fromkeys(name for row in values for name in row))
    table = pa.table({name: pa.array([row.get(name) for row in values], pa.string()) for name in names})
    typed, attempt = rows["typed"][0].as_py(), rows["attempt"][0].as_py()
    gone = tombstones(Ledger(settings.storage.ledger_url or ""), target.use_case, target.source)
    source, file = _as_stored(source, tables.schema(target.raw), typed), rows["source_file"][0].as_py()
    block, left_out = unread(Block(table, rows["row_number"].to_numpy()), source, gone)
    done = check_rows(
        block.table, source, now=now, numbers=block.numbers, file=file, digest=_first_parts(rows)[0],
        future_tolerance_s=settings.ingest.future_tolerance_s, day_first=_day_first(tables, target, attempt),
    )  # fmt: skip
    done = unkept(done, gone, left_out, file, source, names)
    refused = tried(done.refused, attempt)
    at = QUARANTINE.get_field_index("typed")
    return replace(done, refused=refused.set_column(at, "typed", pa.repeat(pa.scalar(typed), refused.num_rows)))


def _as_stored(source: Source, schema: pa.Schema, typed: bool) -> Source:
    """The contract for rows that have its own names, derived columns included; also where conf declares no columns."""
    if source.columns and not typed:
        return source
    own = [f for f in schema if f.name not in ("row_id", *ROLES) and f.name not in source.derive]
    derived = [f for f in schema if f.name in source.derive] if typed else []
    found = {f.name: Column(type=_kind(f.type)) for f in (*own, *derived)}
    declared = {key: replace(spec, column=None) for key, spec in source.columns.items()}
    columns = {**declared, **{f.name: found[f.name] for f in derived}} if source.columns else found
    return replace(source, columns=columns, derive={} if typed else source.derive)


def _kind(kind: pa.DataType) -> ColumnType:
    return ColumnType.time if pa.types.is_timestamp(kind) else STORED.get(str(kind), ColumnType.category)


def _day_first(tables: Tables, target: Target, attempt: str) -> Mapping[str, bool]:
    told = (s["properties"] for s in tables.history(target.raw) if s["properties"].get(ATTEMPT) == attempt)
    return next((Findings.from_json(one[PROPERTY]).day_first for one in told if PROPERTY in one), {})


def _across(
    rows: pa.Table, source: Source, tables: Tables, target: Target, referenced: Mapping[str, Referenced]
) -> pa.Table:
    found = FOUND.empty_table()
    still = replace(source, time_order=False)
    if key_columns(still):
        found = find(keys_of(rows, still), still, tables, target.raw, referenced)
    if not source.time_order:
        return found
    taken_out = found.filter(pc.not_equal(found["action"], "warn"))["pos"].to_numpy()
    gone = pa.array(np.isin(np.arange(rows.num_rows), taken_out))
    alone = replace(source, unique=[], references={}, duplicates=Duplicates())
    return pa.concat_tables([found, _late(rows, gone, alone, tables, target)]).sort_by("pos")


def _late(rows: pa.Table, gone: pa.Array, source: Source, tables: Tables, target: Target) -> pa.Table:
    """Rows with an earlier time than one of their entity before them, committed or replayed, by place in the files."""
    columns = ("tenant", "entity", "event_time", "row_id")
    mine = rows.select(columns).append_column("own", pa.array(np.arange(rows.num_rows))).filter(pc.invert(gone))
    files = commit_order(tables.history(target.raw))
    with database() as db:
        db.register("mine", mine)
        db.register("there", tables.table(target.raw).scan(selected_fields=columns).to_arrow_batch_reader())
        db.register("files", pa.table({"file": pa.array(files, pa.string()), "rank": pa.array(range(len(files)))}))
        both = db.sql(f"""
            SELECT tenant, entity, event_time, own, row_number() OVER (ORDER BY rank, number) - 1 AS {POS} FROM (
                SELECT *, split_part(row_id, '-', 1) AS file, split_part(row_id, '-', 2)::BIGINT AS number FROM (
                    FROM mine UNION ALL BY NAME SELECT *, -1 AS own FROM there SEMI JOIN mine USING (tenant, entity)
                )
            ) LEFT JOIN files USING (file) ORDER BY {POS}""").to_arrow_table()
    times = both["event_time"].cast(pa.int64()).to_numpy()
    late = find(both.append_column(BEHIND, pa.array(behind(times))), source, tables, target.raw, {})
    own = both["own"].take(late["pos"])
    return late.set_column(0, FOUND.field("pos"), own).filter(pc.greater_equal(own, 0))


def _commit(done: Taken, rows: pa.Table, waits: pa.Table, tables: Tables, target: Target, found: Findings) -> None:
    """Quarantine first what was refused for another reason than before, then take the accepted rows and their ids."""
    again = _news(_with_attempts(done.refused, rows), waits)
    if again.num_rows:
        tables.append(target.quarantine, again)
    reached("replay", "quarantined")
    if not done.kept.num_rows:
        return
    remove_leftovers(tables, target.raw, "replay")
    uri = f"{data_dir(tables, target.raw)}/replay-{uuid.uuid4().hex[:8]}/part-00000.parquet"
    sink = Sink(uri, done.kept.schema)
    sink.write(done.kept)
    sink.close()
    reached("replay", "staged")
    properties = {REPLAYED: packed(done.kept["row_id"].to_pylist()), PROPERTY: found.to_json()}
    tables.add_files(target.raw, done.kept.schema, [uri], properties)
    reached("replay", "committed")


def _with_attempts(refused: pa.Table, rows: pa.Table) -> pa.Table:
    """Refused rows under the attempts that refused them first."""
    first = dict(zip(rows["row_id"].to_pylist(), rows["attempt"].to_pylist(), strict=True))
    attempts = pa.array([first[i] for i in refused["row_id"].to_pylist()], pa.string())
    return refused.set_column(QUARANTINE.get_field_index("attempt"), "attempt", attempts)


def _news(refused: pa.Table, waits: pa.Table) -> pa.Table:
    """Refused rows that do not wait for the same reason, with the same values, already."""
    names = ("row_id", "rule", "column", "value", "row")

    def told(table: pa.Table) -> list[tuple[str, ...]]:
        return list(zip(*(table[name].to_pylist() for name in names), strict=True))

    known = set(told(waits))
    return refused.filter(pa.array([one not in known for one in told(refused)], pa.bool_()))
