"""Feast over the platform's stores, training sets end to end, and joins fanned out over a real Ray."""

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import FeatureStore
from tests.contracts.online import dated
from tests.features.worlds import NOW, STAMP, day, raw, world

from raysaas.errors import InputError
from raysaas.features.build import content_hash, materialize, training_set
from raysaas.features.definitions import ViewRows, features_table, repository
from raysaas.features.views import schema_of
from raysaas.settings import Settings, Storage
from raysaas.stores.online import OnlineStore
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, ColumnType, ExampleKind, Examples, Source, UseCase, View

COLUMNS = {
    "y": Column(type=ColumnType.category), "number": Column(), "integer": Column(type=ColumnType.integer),
    "boolean": Column(type=ColumnType.boolean), "category": Column(type=ColumnType.category),
}  # fmt: skip


def typed_rows(size: int = 60) -> list[dict[str, Any]]:
    """Every type, with the values that packings break: NaN, null, 64-bit integers, text beyond ASCII."""
    return [
        {
            "tenant": f"t{n % 2}", "entity": f"e{n // 2}", "at": float(n), "y": "yes" if n % 3 else "no",
            "number": [0.1 * n, math.nan, None][n % 3], "integer": None if n == 7 else 2**62 + n,
            "boolean": None if n == 8 else n % 2 == 0, "category": None if n == 9 else f"süß {n % 4}",
        }
        for n in range(size)
    ]  # fmt: skip


def typed_case(**source: Any) -> UseCase:
    spec = {"entity": "id", "tenant": "of", "time": "at", "columns": COLUMNS, **source}
    return UseCase(name="typed", sources={"log": Source(**spec)}, examples=Examples(source="log", label="y"))


def same(left: Any, right: Any) -> bool:
    return left == right or (isinstance(left, float) and isinstance(right, float) and math.isnan(left + right))


@pytest.fixture
def typed(tmp_path: Path) -> tuple[Settings, Tables]:
    return world(tmp_path / "var", typed_case(), log=raw(typed_rows()))


def test_a_training_set_says_what_it_was_made_from(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    training, table = training_set(settings, tables, now=NOW)
    assert table.column_names == [
        "row_id",
        "tenant",
        "entity",
        "event_time",
        "known_at",
        "split",
        "label",
        *list(COLUMNS)[1:],
    ]
    assert {row["row_id"]: row["integer"] for row in table.to_pylist()} == {
        f"r{n:05d}": row["integer"] for n, row in enumerate(typed_rows())
    }  # fmt: skip
    assert training.snapshots == {"raw.typed__log": tables.snapshots("raw.typed__log")[0]["snapshot_id"]}
    stored = tables.read(training.table, snapshot=training.snapshot_id).select(table.column_names)
    assert content_hash(stored) == training.content_hash == content_hash(table.take(np.arange(60)[::-1]))
    changed = table.set_column(7, "number", pc.add(table["number"], 1e-12))
    assert content_hash(changed) != training.content_hash


def test_a_set_is_rebuilt_as_it_was_known_also_after_a_backfill(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    before, _ = training_set(settings, tables, as_of=day(50), now=NOW)
    late = raw([{**row, "known": 100.0} for row in typed_rows(10)])
    tables.append("raw.typed__log", late.set_column(0, "row_id", pa.array([f"late{n}" for n in range(10)])))
    again, _ = training_set(settings, tables, as_of=day(50), now=NOW)
    newest, _ = training_set(settings, tables, now=NOW)
    assert before.num_rows == again.num_rows == 51
    assert before.content_hash == again.content_hash != newest.content_hash
    assert before.feature_service_hash == newest.feature_service_hash


def test_a_log_is_part_of_a_set_only_where_it_holds_a_row_of_it(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    settings.use_case.examples.feedback = True

    def decided(use_case: str) -> None:
        logged = {"use_case": [use_case], "tenant": ["t0"]}
        at = pa.array([day(100)], STAMP)
        tables.append("log.decisions", pa.table({**logged, "id": [f"{use_case}-1"], "entity": ["e0"], "time": at,
                                                 "inputs": ["{}"]}))  # fmt: skip
        tables.append("log.outcomes", pa.table({**logged, "decision_id": [f"{use_case}-1"], "label": ["yes"],
                                                "observed_at": at}))  # fmt: skip

    decided("another")
    assert set(training_set(settings, tables, now=NOW)[0].snapshots) == {"raw.typed__log"}
    decided("typed")
    training, _ = training_set(settings, tables, now=NOW)
    assert set(training.snapshots) == {"raw.typed__log", "log.decisions", "log.outcomes"}


def test_columns_that_say_nothing_are_dropped_with_a_warning(tmp_path: Path) -> None:
    rows = [{**row, "number": None, "category": "same"} for row in typed_rows()]
    table = raw(rows)
    table = table.set_column(table.column_names.index("number"), "number", pa.nulls(60, pa.float64()))
    settings, tables = world(tmp_path / "var", typed_case(), log=table)
    training, result = training_set(settings, tables, now=NOW)
    assert {"number", "category"}.isdisjoint(result.column_names)
    assert [warning.split("'")[1] for warning in training.warnings] == ["number", "category"]


def test_a_set_without_a_feature_and_a_reserved_name_are_said(tmp_path: Path) -> None:
    settings, tables = world(tmp_path / "a", typed_case(columns={"y": COLUMNS["y"]}), log=raw(typed_rows()))
    with pytest.raises(InputError, match="has no feature"):
        training_set(settings, tables, now=NOW)
    named = typed_case(columns={**COLUMNS, "split": Column()})
    settings, tables = world(tmp_path / "b", named, log=raw([{**row, "split": 1.0} for row in typed_rows()]))
    with pytest.raises(InputError, match=r"\['split'\]"):
        training_set(settings, tables, now=NOW)


def test_a_view_that_left_conf_leaves_feast_and_the_online_store(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    materialize(settings, tables, NOW)
    settings.use_case.views = {"last": View(source="log", columns=["number"])}
    materialize(settings, tables, NOW)
    feast = FeatureStore(repo_path=f"{settings.storage.home}/feast/typed")
    assert [view.name for view in feast.list_feature_views()] == ["typed__last"]
    online = OnlineStore(str(settings.storage.online_url))
    assert (online.count("typed__row"), online.count("typed__last")) == (0, 60)


def test_online_rows_are_those_of_get_online_features(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    assert materialize(settings, tables, NOW) == 60
    feast = FeatureStore(repo_path=f"{settings.storage.home}/feast/typed")
    keys = [(row["tenant"], row["entity"]) for row in typed_rows()] + [("t0", "nobody")]
    asked = [{"tenant": tenant, "entity": entity} for tenant, entity in keys]
    online = feast.get_online_features(feast.get_feature_service("typed"), asked).to_dict()
    packed = OnlineStore(str(settings.storage.online_url)).read("typed__row", keys)
    for position, values in enumerate(packed[:-1]):
        assert values is not None
        assert all(same(online[name][position], value) for name, value in values.items())
        assert all(same(values[name], typed_rows()[position][name]) for name in list(COLUMNS)[1:])
    assert packed[-1] is None
    assert online["integer"][-1] is None


def through_numpy(value: Any) -> Any:
    """What Feast's own conversion leaves of a value: no NaN, and integers as floats where a column has nulls."""
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return None if same(value, math.nan) else value


def test_feasts_own_materialize_through_the_plug_ins_writes_the_same_rows(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    materialize(settings, tables, NOW)
    keys = [(row["tenant"], row["entity"]) for row in typed_rows()]
    store = OnlineStore(str(settings.storage.online_url))
    ours = dated(store, "typed__row", keys)
    store.drop("typed__row")
    FeatureStore(repo_path=f"{settings.storage.home}/feast/typed").materialize(day(-1), NOW)
    theirs = dated(store, "typed__row", keys)
    assert [row and row[0] for row in theirs] == [row and row[0] for row in ours]
    for left, right in zip(ours, theirs, strict=True):
        assert left is not None
        assert right is not None
        assert {name: through_numpy(value) for name, value in left[1].items()} == {
            name: through_numpy(value) for name, value in right[1].items()
        }


def test_an_older_row_written_through_feast_changes_nothing(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    materialize(settings, tables, NOW)
    row = {"tenant": ["t0"], "entity": ["e0"], "number": [9.0], "integer": [9], "boolean": [True], "category": ["new"]}
    feast = FeatureStore(repo_path=f"{settings.storage.home}/feast/typed")
    for moment, expected in ((day(-1), 2**62), (day(1), 9)):
        frame = pd.DataFrame({**row, "event_time": [moment], "known_at": [moment]})
        feast.write_to_online_store("typed__row", df=frame)
        (values,) = OnlineStore(str(settings.storage.online_url)).read("typed__row", [("t0", "e0")])
        assert values is not None
        assert values["integer"] == expected


def test_get_historical_features_honours_ttl_known_at_and_duplicates(tmp_path: Path) -> None:
    case = UseCase(
        name="hist", sources={"log": Source(time="at", columns={"y": Column(), "x": Column()})},
        examples=Examples(source="log", label="y"), views={"v": View(source="log", columns=["x"], ttl_days=5)},
    )  # fmt: skip
    settings, tables = world(tmp_path / "var", case)
    rows = raw(
        [
            {"entity": "a", "at": 1, "x": 1},
            {"entity": "a", "at": 2, "known": 9, "x": 2},
            {"entity": "b", "at": 8, "x": 3},
        ]
    )
    snapshot = tables.append(features_table("hist", "v"), rows.drop_columns(["row_id"]))
    feast = repository(case, {"v": ViewRows(schema_of(rows), snapshot)}, settings.storage).apply()
    frame = pd.DataFrame({
        "tenant": "t", "entity": ["a", "b", "a", "a", "a", "nobody"],
        "event_time": [day(3), day(1), day(3), day(6), day(20), day(3)],
    })  # fmt: skip
    plain = feast.get_historical_features(frame, ["hist__v:x"]).to_df()
    known = feast.get_historical_features(frame, ["hist__v:x"], filter_by_created_timestamp=True).to_df()
    assert plain["entity"].tolist() == frame["entity"].tolist()
    assert plain["x"].fillna(-1).tolist() == [2, -1, 2, 2, -1, -1]
    assert known["x"].fillna(-1).tolist() == [1, -1, 1, 1, -1, -1]
    with pytest.raises(InputError, match="entity_df is a query"):
        feast.get_historical_features("SELECT 1", ["hist__v:x"])


def test_a_source_survives_the_registry(typed: tuple[Settings, Tables]) -> None:
    settings, tables = typed
    training_set(settings, tables, now=NOW)
    feast = FeatureStore(repo_path=f"{settings.storage.home}/feast/typed")
    source = feast.get_data_source("typed__row")
    assert source.table == "features.typed__row"
    assert source.snapshot == tables.snapshots("features.typed__row")[-1]["snapshot_id"]
    assert dict(source.get_table_column_names_and_types(feast.config))["integer"] == "int64"


def test_cuts_see_only_what_was_known_by_the_cut(tmp_path: Path) -> None:
    sources = {
        "orders": Source(entity="id", time="at", columns={"amount": Column()}),
        "plans": Source(entity="id", time="at"),
    }
    case = UseCase(
        name="cuts", sources=sources,
        examples=Examples(kind=ExampleKind.cuts, source="orders", label_source="orders", every_days=10,
                          horizon_days=10),
        views={"o": View(source="orders", windows_days=[10], aggregates=["count", "sum:amount"]),
               "p": View(source="plans", columns=["plan"])},
    )  # fmt: skip
    generator = np.random.default_rng(0)
    orders = [{"entity": f"e{n % 40}", "at": float(at), "known": float(at) + (n % 7 == 0) * 12, "amount": 1.0}
              for n, at in enumerate(generator.uniform(0, 90, 800))]  # fmt: skip
    plans = [
        {"entity": f"e{n % 40}", "at": float(at), "plan": f"p{n}"} for n, at in enumerate(generator.uniform(0, 60, 80))
    ]
    settings, tables = world(tmp_path / "var", case, orders=raw(orders), plans=raw(plans))
    _, table = training_set(settings, tables, now=NOW)
    assert table.num_rows > 150
    for row in table.to_pylist():
        start, cut = row["event_time"] - timedelta(days=10), row["event_time"]
        own = [o for o in orders if o["entity"] == row["entity"]]
        seen = [o for o in own if start < day(o["at"]) <= cut and day(o["known"]) <= cut]
        assert row["count_10d"] == len(seen)
        latest = [p for p in plans if p["entity"] == row["entity"] and day(p["at"]) <= cut]
        assert row["plan"] == (max(latest, key=lambda p: p["at"])["plan"] if latest else None)
        ahead = [o for o in own if cut < day(o["at"]) <= cut + timedelta(days=10)]
        assert row["label"] == ("1" if ahead else "0")
    assert materialize(settings, tables, NOW) == 40
    (values,) = OnlineStore(str(settings.storage.online_url)).read_many(["cuts__o", "cuts__p"], [("t", "e3")])
    assert values is not None
    assert set(values) == {"count_10d", "sum_amount_10d", "plan"}


def test_real_purchases_give_the_known_answer(tmp_path: Path, data_dir: str) -> None:
    purchases = pd.read_csv(f"{data_dir}/cdnow/transactions.csv", dtype={"customer_id": str}, parse_dates=["date"])
    times = pa.array(purchases["date"].dt.tz_localize("UTC") + pd.Timedelta(hours=12), STAMP)
    log = pa.table({
        "row_id": [f"r{n:06d}" for n in range(len(purchases))], "tenant": ["default"] * len(purchases),
        "entity": purchases["customer_id"].tolist(), "event_time": times, "known_at": times,
        "dollar_value": purchases["dollar_value"].to_numpy(),
    })  # fmt: skip
    case = UseCase(
        name="cdnow", sources={"log": Source(entity="id", time="at")},
        examples=Examples(kind=ExampleKind.cuts, source="log", label_source="log", cuts=["1997-10-01"],
                          horizon_days=275),
        views={"v": View(source="log", windows_days=[274], aggregates=["count", "sum:dollar_value", "since_last"])},
    )  # fmt: skip
    settings = Settings(use_case=case, storage=Storage(home=str(tmp_path / "var")))
    tables = Tables(settings.storage)
    tables.append("raw.cdnow__log", log)
    _, table = training_set(settings, tables, now=NOW)
    y, recency = np.array(table["label"]) == "1", table["since_last_d"].to_numpy()
    assert table.num_rows == 23_570
    assert y.mean() == pytest.approx(0.2994, abs=1e-4)
    ranks = pd.Series(-recency).rank().to_numpy()
    auc = (ranks[y].sum() - y.sum() * (y.sum() + 1) / 2) / (y.sum() * (~y).sum())
    assert auc == pytest.approx(0.759, abs=2e-3)
