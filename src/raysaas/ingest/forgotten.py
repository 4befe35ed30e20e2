"""Rows of tenants and entities that were forgotten: they do not come in again, and nothing of them is kept."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.ingest.actions import DROPPED
from raysaas.ingest.binding import bind
from raysaas.ingest.casts import as_text, flat
from raysaas.ingest.contract import Checked
from raysaas.ingest.findings import Broken
from raysaas.ingest.formats import Block
from raysaas.stores.tombstones import Tombstones
from raysaas.use_case import Source

FORGOTTEN = "forgotten"
NOT_KEPT = "(not kept: it may be of somebody who was forgotten)"


def unread(block: Block, source: Source, gone: Tombstones) -> tuple[Block, Sequence[int]]:
    """A block without the rows that its own columns show to be forgotten, and the numbers of those in the file.

    So no rule looks at them, and none comes to quarantine. Where tenant or entity are derived, see ``unkept``.
    """
    owners = _owners(source, block.table.column_names) if gone else None
    if owners is None:
        return block, ()
    tenant, entity = owners
    tenants = _text(block.table, tenant) if tenant else _default(block.table.num_rows)
    hit = gone.mask(tenants, _text(block.table, entity))
    numbers = block.numbers[hit.to_numpy(zero_copy_only=False)].tolist()
    stay = pc.invert(hit)
    return replace(block, table=block.table.filter(stay), numbers=block.numbers[np.asarray(stay)]), numbers


def _owners(source: Source, header: Iterable[str]) -> tuple[str | None, str] | None:
    """The columns of a file that name tenant (None: all are of one) and entity; None where they do not say."""
    names = bind(source, header).names
    entity, tenant = names.get(source.entity or ""), names.get(source.tenant or "")
    return None if entity is None or (source.tenant and tenant is None) else (tenant, entity)


def bare(refused: pa.Table, gone: Tombstones) -> pa.Table:
    """Refused rows of which nobody can say whose they are: their place and the rule stay, what they said does not.

    Only hashes of the forgotten are known, so that a text cannot be searched for their names.
    """
    if not gone:
        return refused
    for name, text in (("value", NOT_KEPT), ("row", json.dumps(NOT_KEPT))):
        at = refused.column_names.index(name)
        refused = refused.set_column(at, refused.field(at), pa.repeat(pa.scalar(text), refused.num_rows))
    return refused


def unkept(
    checked: Checked, gone: Tombstones, before: Sequence[int], file: str, source: Source, header: Iterable[str]
) -> Checked:
    """Accepted rows without the forgotten ones; those and the ones left out ``before`` are counted as dropped.

    Refused rows are :func:`bare` where ``header`` does not say whose they are.
    """
    if not gone:
        return checked
    if _owners(source, header) is None:
        checked = replace(checked, refused=bare(checked.refused, gone))
    rows = checked.accepted
    hit = gone.mask(rows["tenant"], rows["entity"])
    ids = rows["row_id"].filter(hit).to_pylist()
    numbers = sorted([*before, *(int(one.rpartition("-")[2]) for one in ids)])
    if not numbers:
        return checked
    told = Broken(FORGOTTEN, "", len(numbers), None, file, numbers[0], DROPPED)
    kept, copies = rows.filter(pc.invert(hit)), checked.copies + len(numbers)
    return replace(checked, accepted=kept, told=(*checked.told, told), copies=copies)


def _text(table: pa.Table, name: str) -> pa.Array:
    return pc.utf8_trim_whitespace(as_text(flat(table[name])))


def _default(size: int) -> pa.Array:
    return pa.repeat(pa.scalar("default"), size)
