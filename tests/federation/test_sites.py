"""Which rows a site owns."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import ConfigError
from raysaas.federation.sites import partition, write

NAMES = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60)


def _table(tenants: list[str]) -> pa.Table:
    entities, numbers = [f"e{i}" for i in range(len(tenants))], list(range(len(tenants)))
    return pa.table({"tenant": tenants, "entity": entities, "event_time": numbers, "x": numbers})


@given(NAMES, st.integers(1, 4))
def test_every_tenant_has_one_site_and_no_site_is_empty(tenants: list[str], num_sites: int) -> None:
    if len(tenants) < num_sites:
        return
    found = partition(_table(tenants), num_sites, "tenant")
    assert set(found.site.tolist()) == set(range(num_sites))
    if found.by == "tenant":
        assert len({(tenant, site) for tenant, site in zip(tenants, found.site.tolist(), strict=True)}) == len(
            set(tenants)
        )
    else:
        assert len(set(tenants)) < num_sites
        assert found.warning is not None


@given(NAMES)
def test_the_order_of_rows_does_not_change_the_owner(tenants: list[str]) -> None:
    if len(set(tenants)) < 2:
        return
    forth = partition(_table(tenants), 2, "tenant").site
    back = partition(_table(tenants[::-1]), 2, "tenant").site[::-1]
    assert forth.tolist() == back.tolist()


def test_sites_are_balanced() -> None:
    site = partition(_table(["big"] * 50 + ["a"] * 20 + ["b"] * 20 + ["c"] * 10), 2, "tenant").site
    assert np.bincount(site).tolist() == [50, 50]


def test_unknown_ways_and_too_many_sites_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="partition_by='region'"):
        partition(_table(["a", "b"]), 2, "region")
    with pytest.raises(ConfigError, match="num_nodes=3"):
        partition(_table(["a", "b"]), 3, "entity")


def test_one_series_is_split_into_spans_of_time() -> None:
    moments = pa.array([30, 10, 40, 20], pa.timestamp("us"))
    table = pa.table({"tenant": ["a"] * 4, "entity": ["a"] * 4, "event_time": moments})
    found = partition(table, 2, "tenant")
    assert (found.site.tolist(), found.by) == ([1, 0, 1, 0], "time")
    assert found.warning == "1 entity cannot fill 2 sites: rows were split by time instead."


def test_written_sites_hold_every_row_once(tmp_path: Path) -> None:
    table = _table(["a", "b", "c", "a"])
    paths = write(table, partition(table, 2, "tenant").site, tmp_path)
    rows = [pq.read_table(path).column("x").to_pylist() for path in paths.values()]
    assert sorted(itertools.chain(*rows)) == [0, 1, 2, 3]
    assert all(rows)
