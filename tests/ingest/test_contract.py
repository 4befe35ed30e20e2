"""The contract against an oracle that looks at one row after the other."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import ConfigError, InputError
from raysaas.ingest.contract import check
from raysaas.use_case import Column, ColumnType, Source

NOW = datetime(2025, 6, 1, tzinfo=UTC)
SOURCE = Source(
    entity="user", time="at",
    columns={
        "user": Column(type=ColumnType.category, column="User Id"),
        "at": Column(type=ColumnType.time),
        "amount": Column(min=0, max=100),
        "plan": Column(type=ColumnType.category, values=["free", "pro"], required=True),
        "key": Column(type=ColumnType.integer),
    },
    unique=["key"], time_order=True,
)  # fmt: skip
days = st.sampled_from(["2025-05-01", "2025-05-01", "2025-05-02", "2025-06-02", "2025-06-03", "never", ""])
rows_of_text = st.lists(
    st.fixed_dictionaries({
        "User Id": st.sampled_from(["a", "a", "b", "b", ""]), "at": days,
        "amount": st.sampled_from(["0", "1", "50", "100", "NA", "2", "-1", "101", "inf", "x"]),
        "plan": st.sampled_from(["free", "pro", "free", "pro", "free", "gold", "n/a"]),
        "key": st.sampled_from(["1", "2", "3", "4", "5", "6", "z", "", ""]),
    }),
    max_size=30,
)  # fmt: skip


def _row_rule(row: dict[str, str]) -> tuple[str, str] | None:
    at = datetime.fromisoformat(row["at"]).replace(tzinfo=UTC) if row["at"].startswith("2025") else None
    checks = [
        ("type", "at", row["at"] == "never"),
        ("type", "amount", row["amount"] == "x"),
        ("finite", "amount", row["amount"] == "inf"),
        ("min", "amount", row["amount"] == "-1"),
        ("max", "amount", row["amount"] == "101"),
        ("required", "plan", row["plan"] == "n/a"),
        ("values", "plan", row["plan"] == "gold"),
        ("type", "key", row["key"] == "z"),
        ("required", "user", row["User Id"] == ""),
        ("required", "at", row["at"] == ""),
        ("future", "at", at is not None and at > NOW + timedelta(days=1)),
    ]
    return next(((rule, column) for rule, column, broken in checks if broken), None)


def _oracle(rows: list[dict[str, str]]) -> tuple[list[int], dict[int, tuple[str, str]]]:
    accepted, refused, seen, latest = [], {}, set(), {}
    for number, row in enumerate(rows, 1):
        broken = _row_rule(row)
        if broken is None and row["key"] and row["key"] in seen:
            broken = ("unique", "key")
        if broken is None:
            seen.add(row["key"])
            before = latest.get(row["User Id"], "")
            latest[row["User Id"]] = max(before, row["at"])
            broken = ("time_order", "at") if row["at"] < before else None
        if broken is None:
            accepted.append(number)
        else:
            refused[number] = broken
    return accepted, refused


@settings(deadline=None, max_examples=60)
@given(rows=rows_of_text)
def test_check_agrees_with_looking_at_each_row(rows: list[dict[str, str]]) -> None:
    table = pa.table(
        {name: pa.array([r[name] for r in rows], pa.string()) for name in ("User Id", "at", "amount", "plan", "key")}
    )
    done = check(table, SOURCE, now=NOW, row_offset=10, file="f.csv", digest="0123456789abcdef99")
    accepted, refused = _oracle(rows)
    assert done.accepted["row_id"].to_pylist() == [f"0123456789abcdef-{number + 10}" for number in accepted]
    told = {r["row_number"] - 10: (r["rule"], r["column"]) for r in done.refused.to_pylist()}
    assert told == refused
    assert done.accepted["entity"].to_pylist() == [rows[number - 1]["User Id"] for number in accepted]


def test_limits_are_inside() -> None:
    names = ("User Id", "at", "amount", "plan", "key")
    rows = [
        ("a", "2025-06-02", "0", "free", "1"), ("a", "2025-06-02", "100", "free", "2"),
        ("b", "2025-06-02", "1", "pro", ""),
    ]  # fmt: skip
    table = pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    assert check(table, SOURCE, now=NOW).refused.to_pylist() == []


def _table(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values) for name, values in columns.items()})


def test_a_refused_row_says_everything_needed_to_find_it() -> None:
    source = Source(columns={"price": Column(max=10, column="Unit price")})
    done = check(
        _table(**{"Unit price": ["1", "99"], "Note": ["a", 'b"c']}), source, now=NOW, row_offset=5, file="x.csv"
    )
    assert done.refused.to_pylist() == [{
        "source_file": "x.csv", "row_number": 7, "rule": "max", "column": "price", "value": "99",
        "row": '{"Unit price":"99","Note":"b\\"c"}', "row_id": done.refused["row_id"][0].as_py(), "attempt": "",
        "typed": False, "known_at": NOW,
    }]  # fmt: skip


def test_a_refused_row_has_the_id_that_it_would_have_had() -> None:
    done = check(_table(x=["1", "99"]), Source(columns={"x": Column(max=10)}), now=NOW, row_offset=5, digest="d" * 64)
    told = [rows["row_id"].to_pylist() for rows in (done.accepted, done.refused)]
    assert told == [[f"{'d' * 16}-6"], [f"{'d' * 16}-7"]]


def test_defaults_of_the_platform_columns() -> None:
    row = check(_table(x=["1"]), Source(columns={"x": Column()}), now=NOW, file="f").accepted.to_pylist()[0]
    assert (row["tenant"], row["entity"], row["event_time"], row["known_at"]) == ("default", row["row_id"], NOW, NOW)


def test_known_at_follows_the_event_time_when_no_column_names_it() -> None:
    source = Source(time="t", columns={"t": Column(type=ColumnType.time)})
    row = check(_table(t=["2024-01-02"]), source, now=NOW).accepted.to_pylist()[0]
    assert row["known_at"] == row["event_time"] == datetime(2024, 1, 2, tzinfo=UTC)


def test_derived_columns_see_typed_ones_and_fail_row_by_row() -> None:
    whole = Column(type=ColumnType.integer)
    source = Source(time="at", columns={"y": whole, "m": whole}, derive={"at": "make_timestamp(y, m, 1, 0, 0, 0)"})
    done = check(_table(y=["2024", "2024"], m=["2", "13"]), source, now=NOW)
    assert done.accepted["event_time"].to_pylist() == [datetime(2024, 2, 1, tzinfo=UTC)]
    assert done.refused.select(["row_number", "rule", "column"]).to_pylist() == [
        {"row_number": 2, "rule": "required", "column": "at"}
    ]


def test_a_broken_expression_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="derive"):
        check(_table(x=["1"]), Source(columns={"x": Column()}, derive={"y": "nonsense(x)"}), now=NOW)


def test_a_null_spelling_that_is_an_allowed_value_stays_a_value() -> None:
    source = Source(columns={"region": Column(type=ColumnType.category, values=["NA", "EU"], required=True)})
    assert check(_table(region=["NA", "EU"]), source, now=NOW).accepted["region"].to_pylist() == ["NA", "EU"]


def test_a_required_column_that_is_missing_names_the_nearest_one() -> None:
    with pytest.raises(InputError, match=r"'amount'.*nearest one is 'Amounts'"):
        check(_table(Amounts=["1"]), Source(columns={"amount": Column(required=True)}), now=NOW)


def test_a_column_that_may_be_missing_becomes_null() -> None:
    source = Source(columns={"x": Column(), "y": Column(type=ColumnType.category)})
    assert check(_table(x=["1"]), source, now=NOW).accepted["y"].to_pylist() == [None]


def test_time_must_be_a_time() -> None:
    with pytest.raises(ConfigError, match="expected type time"):
        check(_table(x=["1"]), Source(time="x", columns={"x": Column()}), now=NOW)


def test_a_million_values_take_no_per_row_python() -> None:
    table = _table(user=["u"] * 200_000, amount=["12.5"] * 199_999 + ["x"])
    done = check(
        table, Source(entity="user", columns={"user": Column(type=ColumnType.text), "amount": Column()}), now=NOW
    )
    assert (done.accepted.num_rows, done.refused.num_rows) == (199_999, 1)
