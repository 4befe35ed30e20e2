"""Which rows a simulated site owns: whole tenants, or whole entities, or where there are too few a span of time.

On a real edge the agent's buffer holds the rows.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysaas.errors import ConfigError

_PLURAL = {"tenant": "tenants", "entity": "entities"}


@dataclass(frozen=True, slots=True)
class Partition:
    """``site`` [n] is each row's site index; ``by`` decided it, and is not what was asked when ``warning`` is set."""

    site: np.ndarray
    by: str
    warning: str | None = None


def partition(table: pa.Table, num_sites: int, by: str) -> Partition:
    """Give every row to one site: sites are disjoint in tenants (``tenant``) or in entities (``entity``).

    With fewer of those than sites it goes on to entities, then to consecutive spans of time. Raises ConfigError for
    another ``by`` and when there are fewer rows than sites.
    """
    ways = ["tenant", "entity"]
    if by not in ways:
        raise ConfigError(f"federated.partition_by={by!r} is not allowed: expected tenant or entity.")
    warning = ""
    for way in ways[ways.index(by) :]:
        codes, names, counts = _codes(table, way)
        if len(names) >= num_sites:
            site = _balanced(names, counts, num_sites)[codes]
            return Partition(site, way, f"{warning} by {way} instead." if warning else None)
        found = f"{len(names)} {way if len(names) == 1 else _PLURAL[way]}"
        warning = f"{found} cannot fill {num_sites} sites: rows were split"
    if table.num_rows < num_sites:
        raise ConfigError(f"federated.num_nodes={num_sites} is not allowed: there are only {table.num_rows} rows.")
    place = np.argsort(np.argsort(table["event_time"].to_numpy(), kind="stable"), kind="stable")
    return Partition(place * num_sites // table.num_rows, "time", f"{warning} by time instead.")


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
