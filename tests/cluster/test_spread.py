"""Training sets and online rows of sources that stay in their files, while Ray works on them part by part."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.features.worlds import NOW, day, raw, world

from raysaas.features.build import content_hash, materialize, training_set
from raysaas.features.definitions import features_table
from raysaas.features.known_rows import HeldRows, StoredRows
from raysaas.features.raw import raw as read_raw
from raysaas.settings import Features, Settings
from raysaas.stores.online import OnlineStore
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, Duplicates, ExampleKind, Examples, Keep, Source, UseCase
from raysaas.view import View

COLUMNS = {"x": Column(), "n": Column(), "y": Column()}
VIEWS = {
    "sums": View(source="events", windows_days=[3, 20], ratios={"share": ["sum_x_3d", "sum_x_20d"]},
                 aggregates=["count", "sum:x", "last:x", "distinct:n", "since_last"]),
    "now": View(source="plans", columns=["x"], lags={"x": [1]}, differences={"step": ["x", "x_lag_1"]}, ttl_days=30),
}  # fmt: skip
CUTS = Examples(kind=ExampleKind.cuts, source="events", label_source="ends", every_days=7, horizon_days=7,
                until_label=True)  # fmt: skip


def events(size: int, seed: int, **columns: Any) -> pa.Table:
    """Few entities and few times, some of them known late; ids of one file."""
    rng = np.random.default_rng(seed)
    rows = raw([
        {"tenant": f"t{n % 3}", "entity": f"e{n % 2}{n % 7}", "at": float(at), "known": float(at + late), "x": x,
         "n": int(n), "y": float(n % 2)}
        for n, at, late, x in zip(rng.integers(0, 60, size), rng.integers(0, 90, size),
                                  rng.choice([0, 0, 0, 5], size), rng.random(size), strict=True)
    ])  # fmt: skip
    ids = pa.array([f"{seed:016d}-{number + 1}" for number in range(size)])
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    return rows.set_column(0, "row_id", ids)


def case(examples: Examples, views: dict[str, View], **source: Any) -> UseCase:
    def log(**more: Any) -> Source:
        return Source(entity="id", tenant="of", time="at", columns=COLUMNS, **more)

    return UseCase(name="spread", sources={"events": log(), "plans": log(**source), "ends": log()}, views=views,
                   examples=examples)  # fmt: skip


# The unique key is none of the entity: a later version of a row may be of another one.
VERSIONED = {"unique": ["n"], "duplicates": Duplicates(key=Keep.last)}
CASES = {
    "cuts": case(CUTS, VIEWS, **VERSIONED),
    "rows": case(Examples(source="plans", label="y", lags={"x": [1, 2]}), {"sums": VIEWS["sums"]}),
}


def sides(home: Path, use_case: UseCase) -> tuple[Settings, Settings, Tables]:
    """Settings by which one process holds every source, and by which none does; each source has several files."""
    settings, tables = world(home, use_case)
    for number, (name, size) in enumerate({"events": 120, "plans": 60, "ends": 15}.items()):
        for part in range(2):
            tables.append(f"raw.spread__{name}", events(size, 10 * number + part))
    spread = replace(settings, features=Features(partitions=2, rows_per_partition=25))
    return settings, spread, tables


def online(settings: Settings) -> dict[str, list[Any]]:
    store = OnlineStore(str(settings.storage.online_url))
    return {view: [store.keys(view), store.read_dated([view], store.keys(view))] for view in store.rows.views()}


@pytest.mark.parametrize("name", CASES)
def test_what_ray_makes_part_by_part_is_what_one_process_makes(
    ray_cluster: SimpleNamespace, tmp_path: Path, name: str
) -> None:
    held, spread, tables = sides(tmp_path / "var", CASES[name])
    one, table = training_set(held, tables, now=NOW)
    views = {view: tables.read(features_table("spread", view)) for view in VIEWS if view in CASES[name].views}
    entities, rows = materialize(held, tables, NOW), online(held)
    other, again = training_set(spread, tables, now=NOW)
    assert table.num_rows > 100
    assert again.equals(table)
    assert (other.content_hash, other.feature_service_hash) == (one.content_hash, one.feature_service_hash)
    for view, expected in views.items():
        got = tables.read(features_table("spread", view))
        order = [(key, "ascending") for key in got.column_names]
        assert got.sort_by(order).equals(expected.sort_by(order))
    assert materialize(spread, tables, NOW) == entities > 5
    assert online(spread) == rows


def test_long_sources_stay_in_their_files_and_short_ones_do_not(ray_cluster: SimpleNamespace, tmp_path: Path) -> None:
    held, spread, tables = sides(tmp_path / "var", CASES["cuts"])
    long = read_raw(CASES["cuts"], tables, NOW, features=spread.features)
    assert isinstance(long.rows("events"), StoredRows)
    short = read_raw(CASES["cuts"], tables, NOW, features=held.features)
    assert isinstance(short.rows("events"), HeldRows)
    assert (long.newest(), long.newest_event(), long.oldest_event()) == (
        short.newest(), short.newest_event(), short.oldest_event()) == (day(94), day(89), day(0))  # fmt: skip
    assert long.read("ends").equals(short.read("ends"))
    assert long.rows("events").only(["x", "entity"]).read().equals(short.read("events", ["x", "entity"]))


def test_of_rows_without_an_entity_each_is_one_of_its_own_in_every_part(
    ray_cluster: SimpleNamespace, tmp_path: Path
) -> None:
    log = Source(time="at", columns=COLUMNS)
    use_case = UseCase(name="spread", sources={"events": log}, examples=Examples(source="events", label="y"))
    settings, tables = world(tmp_path / "var", use_case)
    rows = events(200, 1)
    for part in range(2):
        entity = pa.nulls(100, pa.string())
        tables.append("raw.spread__events", rows.slice(100 * part, 100).set_column(2, "entity", entity))
    spread = read_raw(use_case, tables, NOW, features=Features(partitions=2, rows_per_partition=50))
    assert spread.rows("events").only(["entity"]).reduced(_names, _names).sort_by("entity")["entity"].to_pylist() == (
        sorted(rows["row_id"].to_pylist())
    )
    one, _ = training_set(settings, tables, now=NOW)
    assert one.content_hash == content_hash(training_set(replace(
        settings, features=Features(partitions=2, rows_per_partition=50)), tables, now=NOW)[1])  # fmt: skip


def _names(rows: pa.Table) -> pa.Table:
    return rows.group_by("entity").aggregate([])
