"""What every Feast offline store must do; ``tests/features/test_feast_offline.py`` runs it on ours through the fixture
``open_store`` and shows where Feast's own stores answer the same questions differently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.data_source import DataSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from tests.features.oracle import latest, same

from raysaas.errors import RaysaasError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
KEYS = ("tenant", "entity")
MICRO = timedelta(microseconds=1)


def day(number: float) -> datetime:
    """``number`` days after the first of January 2026."""
    return T0 + timedelta(days=number)


@dataclass
class Given:
    """Rows of a view and how it is declared; ``names`` renames columns of the stored rows, ``mapping`` maps back."""

    rows: list[dict[str, Any]]
    keys: Sequence[str] = KEYS
    ttl: timedelta | None = None
    time: str = "event_time"
    mapping: dict[str, str] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=lambda: {"x": Int64})

    def table(self) -> pa.Table:
        """The rows as a store holds them, one column per key, times, and features under their stored names."""
        stored = {feature: column for column, feature in self.mapping.items()}
        kinds = {Int64: pa.int64(), Float64: pa.float64(), String: pa.string()}
        values = {stored.get(name, name): kinds[kind] for name, kind in self.features.items()}
        schema = pa.schema({**dict.fromkeys(self.keys, pa.string()), self.time: STAMP, "known_at": STAMP, **values})
        return pa.Table.from_pylist([self._stored(row, stored) for row in self.rows], schema)

    def _stored(self, row: dict[str, Any], stored: dict[str, str]) -> dict[str, Any]:
        whole = {"tenant": "t", "known_at": row["event_time"], self.time: row["event_time"], **row}
        return {stored.get(name, name): value for name, value in whole.items()}

    def view(self, name: str, source: DataSource) -> FeatureView:
        """Feast's view over ``source``."""
        entities = [Entity(name=key, join_keys=[key], value_type=ValueType.STRING) for key in self.keys]
        fields = [Field(name=feature, dtype=kind) for feature, kind in self.features.items()]
        keys = [Field(name=key, dtype=String) for key in self.keys]
        return FeatureView(name=name, entities=entities, ttl=self.ttl, schema=[*keys, *fields], source=source)


Open = Callable[[dict[str, Given]], FeatureStore]


def asks(*rows: tuple[str | None, float], **more: list[Any]) -> pd.DataFrame:
    """Entity rows of ``(entity, day)``."""
    times = pd.Series([day(at) for _, at in rows], dtype="datetime64[us, UTC]")
    return pd.DataFrame({"tenant": "t", "entity": [entity for entity, _ in rows], "event_time": times, **more})


def row(entity: str, at: float, known: float | None = None, **values: Any) -> dict[str, Any]:
    """One feature row."""
    return {"entity": entity, "event_time": day(at), "known_at": day(at if known is None else known), **values}


def got(store: FeatureStore, frame: Any, refs: Sequence[str] = ("v:x",), **options: Any) -> pa.Table:
    """What ``get_historical_features`` answers, as Arrow."""
    return store.get_historical_features(frame, list(refs), **options).to_arrow()


class OfflineStoreContract:
    """Inherit it and offer a fixture ``open_store``: a Feast store over the given views."""

    def test_the_value_is_the_latest_at_the_time_of_each_row(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("a", 3, x=3), row("b", 2, x=9)])})
        table = got(store, asks(("a", 2), ("a", 3), ("a", 9), ("b", 9)))
        assert table["x"].to_pylist() == [1, 3, 3, 9]

    def test_a_ttl_is_inclusive(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1)], ttl=timedelta(days=2))})
        frame = asks(("a", 3), ("a", 3))
        frame.loc[1, "event_time"] += MICRO
        assert got(store, frame)["x"].to_pylist() == [1, None]

    def test_what_became_known_later_does_not_exist_yet(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("a", 2, known=5, x=2)])})
        table = got(store, asks(("a", 3), ("a", 5)), filter_by_created_timestamp=True)
        assert table["x"].to_pylist() == [1, 2]

    def test_of_equal_times_the_last_known_and_then_the_last_row_counts(self, open_store: Open) -> None:
        rows = [row("a", 1, known=3, x=3), row("a", 1, known=2, x=2), row("b", 1, x=1), row("b", 1, x=2)]
        assert got(open_store({"v": Given(rows)}), asks(("a", 9), ("b", 9)))["x"].to_pylist() == [3, 2]

    def test_rows_keep_their_order_their_copies_and_their_columns(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("b", 1, x=2)])})
        frame = asks(("b", 2), ("a", 3), ("b", 2), ("a", 1), ("b", 2), label=[5, 4, 3, 2, 1])
        table = got(store, frame)
        assert table["label"].to_pylist() == [5, 4, 3, 2, 1]
        assert table["entity"].to_pylist() == ["b", "a", "b", "a", "b"]
        assert table["x"].to_pylist() == [2, 1, 2, 1, 2]

    def test_what_is_not_known_is_null(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 5, x=1), row("b", 1, x=None)])})
        table = got(store, asks(("a", 4), ("b", 2), ("nobody", 9), (None, 9)))
        assert table["entity"].to_pylist() == ["a", "b", "nobody", None]
        assert table["x"].to_pylist() == [None, None, None, None]

    def test_views_may_have_different_keys(self, open_store: Open) -> None:
        region = [{"region": "eu", "event_time": day(1), "x": 7}]
        store = open_store({"v": Given([row("a", 1, x=1)]), "r": Given(region, keys=("region",))})
        table = got(store, asks(("a", 2), ("b", 2), region=["eu", "us"]), ["v:x", "r:x"], full_feature_names=True)
        assert table["v__x"].to_pylist() == [1, None]
        assert table["r__x"].to_pylist() == [7, None]

    def test_tenants_are_apart(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), {**row("a", 2, x=2), "tenant": "u"}])})
        frame = asks(("a", 3), ("a", 3))
        frame["tenant"] = ["u", "t"]
        assert got(store, frame)["x"].to_pylist() == [2, 1]

    def test_full_names_tell_equal_names_apart(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1)]), "w": Given([row("a", 1, x=2)])})
        table = got(store, asks(("a", 2)), ["v:x", "w:x"], full_feature_names=True)
        assert (table["v__x"].to_pylist(), table["w__x"].to_pylist()) == ([1], [2])

    def test_on_demand_views_are_computed_from_what_was_joined(self, open_store: Open) -> None:
        given = Given([row("a", 1, x=1, y=2.5)], features={"x": Int64, "y": Float64})
        store = open_store({"v": given})

        @on_demand_feature_view(sources=[store.get_feature_view("v")], schema=[Field(name="sum", dtype=Float64)])
        def both(inputs: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"sum": inputs["x"] + inputs["y"]})

        store.apply([both])
        assert got(store, asks(("a", 2)), ["v:x", "both:sum"])["sum"].to_pylist() == [3.5]

    def test_stored_names_and_another_time_column_are_mapped(self, open_store: Open) -> None:
        given = Given([row("a", 1, x=1), row("a", 2, x=2)], time="happened", mapping={"col_x": "x"})
        assert got(open_store({"v": given}), asks(("a", 1.5), ("a", 3)))["x"].to_pylist() == [1, 2]

    def test_a_view_joins_by_another_name_of_its_key(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("b", 1, x=2)])})
        view = store.get_feature_view("v").with_name("buyer").with_join_key_map({"entity": "buyer_id"})
        frame = asks(("a", 2)).rename(columns={"entity": "buyer_id"})
        frame["buyer_id"] = ["b"]
        service = FeatureService(name="s", features=[view])
        store.apply([service])
        assert store.get_historical_features(frame, service).to_arrow()["x"].to_pylist() == [2]

    def test_pandas_and_arrow_ask_alike(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1)])})
        frame = asks(("a", 2), ("b", 2))
        arrow = pa.Table.from_pandas(frame, preserve_index=False)
        assert got(store, arrow).to_pylist() == got(store, frame).to_pylist()

    def test_no_row_asks_for_nothing(self, open_store: Open) -> None:
        table = got(open_store({"v": Given([row("a", 1, x=1)])}), asks())
        assert table.num_rows == 0
        assert {"tenant", "entity", "event_time", "x"} <= set(table.column_names)

    def test_a_query_as_entity_rows_is_refused_in_words(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1)])})
        with pytest.raises(RaysaasError, match=r"entity_df is a query: .* pandas or an Arrow table"):
            got(store, "SELECT 'a' AS entity")

    def test_feasts_materialize_reads_stored_names(self, open_store: Open) -> None:
        rows = [row("a", 1, x=1), row("a", 3, x=3), row("b", 2, x=2)]
        store = open_store({"v": Given(rows, time="happened", mapping={"col_x": "x"})})
        store.materialize(day(0), day(9))
        keys = [{"tenant": "t", "entity": entity} for entity in "abz"]
        assert store.get_online_features(["v:x"], keys).to_dict()["x"] == [3, 2, None]

    def test_the_latest_rows_of_a_span_are_pulled(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("a", 3, x=3), row("b", 1, x=9), row("c", 9, x=5)])})
        pulled = _pull(store, "pull_latest_from_table_or_query", day(2), day(4))
        assert pulled.select(["entity", "event_time", "x"]).to_pylist() == [
            {"entity": "a", "event_time": day(3), "x": 3}
        ]

    @pytest.mark.parametrize("how", ["pull_latest_from_table_or_query", "pull_all_from_table_or_query"])
    def test_pulled_times_have_their_stored_names(self, open_store: Open, how: str) -> None:
        pulled = _pull(open_store({"v": Given([row("a", 1, x=1)], time="happened")}), how, day(0), day(4))
        assert pulled["happened"].to_pylist() == [day(1)]
        assert "event_time" not in pulled.column_names

    def test_every_row_of_a_span_is_pulled(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1), row("a", 3, x=3), row("b", 4, x=4), row("c", 9, x=5)])})
        pulled = _pull(store, "pull_all_from_table_or_query", day(3), day(4))
        assert sorted(pulled["x"].to_pylist()) == [3, 4]

    def test_rows_written_through_feast_are_there(self, open_store: Open) -> None:
        store = open_store({"v": Given([row("a", 1, x=1)])})
        new = Given([row("a", 2, x=2), row("b", 2, x=7)]).table().to_pandas()
        store.write_to_offline_store("v", new)
        assert got(store, asks(("a", 3), ("b", 3)))["x"].to_pylist() == [2, 7]

    @pytest.mark.parametrize("seed", range(3))
    def test_random_rows_are_answered_as_by_a_loop(self, open_store: Open, seed: int) -> None:
        draw, ttl = Random(seed), [None, timedelta(days=2)][seed % 2]

        def some(count: int, **values: list[Any]) -> list[dict[str, Any]]:
            return [{"tenant": draw.choice("tu"), "entity": draw.choice("abc"), "event_time": day(draw.randrange(6)),
                     **{name: draw.choice(value) for name, value in values.items()}} for _ in range(count)]  # fmt: skip

        rows = some(60, known_at=[day(at) for at in range(8)], x=[None, *range(50)], y=[None, 0.5, float("nan")])
        asked = some(40)
        store = open_store({"v": Given(rows, ttl=ttl, features={"x": Int64, "y": Float64})})
        frame = pd.DataFrame(asked).astype({"event_time": "datetime64[us, UTC]"})
        for known_by_event in (False, True):
            options = {"filter_by_created_timestamp": True} if known_by_event else {}
            table = got(store, frame, ["v:x", "v:y"], **options)
            found = [latest(ask, rows, KEYS, ttl, known_by_event=known_by_event) for ask in asked]
            for name in ("x", "y"):
                expected = [None if best is None else best[name] for best in found]
                assert all(same(*pair) for pair in zip(table[name].to_pylist(), expected, strict=True)), name


def _pull(store: FeatureStore, how: str, start: datetime, end: datetime) -> pa.Table:
    view = store.get_feature_view("v")
    provider = store._get_provider()
    return getattr(provider.offline_store, how)(
        config=store.config, data_source=view.batch_source, join_key_columns=list(KEYS), feature_name_columns=["x"],
        timestamp_field=view.batch_source.timestamp_field, created_timestamp_column="known_at",
        start_date=start, end_date=end,
    ).to_arrow()  # fmt: skip
