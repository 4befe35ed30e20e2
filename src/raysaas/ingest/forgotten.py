"""Rows of tenants and entities that were forgotten: they do not come in again, and nothing of them is kept."""

from collections.abc import Sequence
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


def unread(block: Block, source: Source, gone: Tombstones) -> tuple[Block, Sequence[int]]:
    """A block without the rows that its own columns show to be forgotten, and the numbers of those in the file.

    So no rule looks at them, and none comes to quarantine. Where tenant or entity are derived, see ``unkept``.
    """
    if not gone:
        return block, ()
    names = bind(source, block.table.column_names).names
    entity, tenant = names.get(source.entity or ""), names.get(source.tenant or "")
    if entity is None or (source.tenant and tenant is None):
        return block, ()
    tenants = _text(block.table, tenant) if tenant else _default(block.table.num_rows)
    hit = gone.mask(tenants, _text(block.table, entity))
    numbers = block.numbers[hit.to_numpy(zero_copy_only=False)].tolist()
    stay = pc.invert(hit)
    return replace(block, table=block.table.filter(stay), numbers=block.numbers[np.asarray(stay)]), numbers


def unkept(checked: Checked, gone: Tombstones, before: Sequence[int], file: str) -> Checked:
    """Accepted rows without the forgotten ones; those and the ones left out ``before`` are counted as dropped."""
    if not gone:
        return checked
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
