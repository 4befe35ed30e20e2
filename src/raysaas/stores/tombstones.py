"""Who must not come back: salted hashes of forgotten tenants and entities, by which new rows are known."""

import hashlib
import secrets
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.stores.ledger import Ledger

_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True)
class Tombstones:
    """The forgotten of one source. Small, and picklable for tasks; empty is false.

    A hash of a guessable id can be guessed: it keeps the id out of sight, not secret.
    """

    salt: str = ""
    digests: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.digests)

    def mask(self, tenants: pa.Array | pa.ChunkedArray, entities: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Boolean [n]: whether the row is of a forgotten tenant, or of a forgotten entity of its tenant."""
        if not self.digests:
            return pa.repeat(pa.scalar(False), len(tenants))
        pairs = pa.table({"tenant": tenants, "entity": entities})
        distinct = pairs.group_by(["tenant", "entity"]).aggregate([])
        hit = [self.holds(row["tenant"], row["entity"]) for row in distinct.to_pylist()]
        gone = distinct.filter(pa.array(hit, pa.bool_()))
        if not gone.num_rows:
            return pa.repeat(pa.scalar(False), len(tenants))
        keys = [_joined(table["tenant"], table["entity"]) for table in (pairs, gone)]
        found = pc.is_in(keys[0], value_set=keys[1].combine_chunks())
        return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found

    def holds(self, tenant: str | None, entity: str | None) -> bool:
        """Whether the tenant, or this entity of it, was forgotten."""
        if tenant is None:
            return False
        whole = _digest(self.salt, tenant, None) in self.digests
        return whole or (entity is not None and _digest(self.salt, tenant, entity) in self.digests)


NOBODY = Tombstones()


def tombstones(ledger: Ledger, use_case: str, source: str) -> Tombstones:
    """The forgotten of a source."""
    digests = ledger.tombstones(use_case, source)
    return Tombstones(_salt(ledger), digests) if digests else NOBODY


def bury(ledger: Ledger, use_case: str, source: str, tenant: str, entity: str | None) -> None:
    """Remember that rows of a tenant, or of one of its entities, must not enter a source again."""
    ledger.add_tombstone(use_case, source, _digest(_salt(ledger), tenant, entity))


def lift(ledger: Ledger, use_case: str, source: str, tenant: str, entity: str | None) -> bool:
    """Let rows of a tenant, or of one of its entities, enter a source again; whether they were kept out.

    Of a tenant that is let in, entities that were forgotten singly stay out.
    """
    return ledger.drop_tombstone(use_case, source, _digest(_salt(ledger), tenant, entity))


def _salt(ledger: Ledger) -> str:
    return str(ledger.first_state("tombstones", {"salt": secrets.token_hex(16)})["salt"])


def _joined(tenants: pa.ChunkedArray, entities: pa.ChunkedArray) -> pa.ChunkedArray:
    parts = (pc.fill_null(column.cast(pa.string()), _SEPARATOR) for column in (tenants, entities))
    return pc.binary_join_element_wise(*parts, _SEPARATOR)


def _digest(salt: str, tenant: str, entity: str | None) -> str:
    whose = tenant if entity is None else f"{tenant}{_SEPARATOR}{entity}"
    return hashlib.sha256(f"{salt}{_SEPARATOR}{whose}".encode()).hexdigest()
