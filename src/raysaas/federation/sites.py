"""Which rows a simulated site owns: whole tenants, or whole entities.

On a real edge the agent's buffer holds the rows.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysaas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Partition:
    """``site`` [n] is each row's site index; ``by`` decided it, and is not what was asked when ``warning`` is set."""

    site: np.ndarray
    by: str
    warning: str | None = None


def partition(table: pa.Table, num_sites: int, by: str) -> Partition:
    """Give every row to one site: sites are disjoint in tenants (``tenant``) or in entities (``entity``).

    Raises ConfigError for another ``by`` and when there are fewer entities than sites.
    """
    if by not in {"tenant", "entity"}:
        raise ConfigError(f"federated.partition_by={by!r} is not allowed: expected tenant or entity.")
    codes, names, counts = _codes(table, by)
    warning = None
    if by == "tenant" and len(names) < num_sites:
        warning = f"{len(names)} tenants cannot fill {num_sites} sites: rows were split by entity instead."
        codes, names, counts = _codes(table, "entity")
        by = "entity"
    if len(names) < num_sites:
        raise ConfigError(f"federated.num_nodes={num_sites} is not allowed: there are only {len(names)} entities.")
    return Partition(_balanced(names, counts, num_sites)[codes], by, warning)


def _codes(table: pa.Table, column: str) -> tuple[np.ndarray, list[str], np.ndarray]:
    encoded = table.column(column).cast(pa.string()).fill_null("").combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    return codes, encoded.dictionary.to_pylist(), np.bincount(codes, minlength=len(encoded.dictionary))


def _balanced(names: list[str], counts: np.ndarray, num_sites: int) -> np.ndarray:
    """Largest first to the emptiest site; ties by hash, so that the order of rows does not matter."""
    order = sorted(range(len(names)), key=lambda i: (-int(counts[i]), zlib.crc32(names[i].encode()), names[i]))
    loads, owner = [0] * num_sites, np.zeros(len(names), dtype=np.int64)
    for i in order:
        owner[i] = loads.index(min(loads))
        loads[owner[i]] += int(counts[i])
    return owner


def write(table: pa.Table, site: np.ndarray, folder: Path) -> dict[str, Path]:
    """One Parquet file per site; returns them by site name."""
    paths = {}
    for index in range(int(site.max()) + 1):
        name = f"site-{index}"
        home = folder / name
        home.mkdir(mode=0o700, parents=True)
        paths[name] = home / "rows.parquet"
        pq.write_table(table.filter(pa.array(site == index)), paths[name])
    return paths
