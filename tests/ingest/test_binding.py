"""Types inferred from values, and contracts that contradict themselves."""

import pyarrow as pa
import pytest

from raysaas.errors import ConfigError
from raysaas.ingest.binding import bind, candidates, infer, validate
from raysaas.use_case import Column, ColumnType, Source


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "2.5", "NA", "inf"], ColumnType.number),
        (["1", "x"], ColumnType.category),
        (["true", "FALSE", ""], ColumnType.boolean),
        (["2024-01-02", "2024-01-02T03:04:05Z"], ColumnType.time),
        (["2024-01-02", "2024-13-02"], ColumnType.category),
        (["", "NA"], ColumnType.category),
        (["20240102"], ColumnType.number),
        (["Yes", "No"], ColumnType.category),
    ],
)
def test_types_of_text_columns(values: list[str], kind: ColumnType) -> None:
    column = infer(Source(), candidates(pa.table({"The name": values}))).columns["The_name"]
    assert (column.type, column.column) == (kind, "The name")


def test_types_of_typed_columns() -> None:
    table = pa.table({"a": [1], "b": [True], "c": pa.array([0], pa.timestamp("ms")), "d": [1.5]})
    kinds = {name: column.type for name, column in infer(Source(), candidates(table)).columns.items()}
    assert kinds == {
        "a": ColumnType.number, "b": ColumnType.boolean, "c": ColumnType.time, "d": ColumnType.number
    }  # fmt: skip


def test_names_are_matched_by_key_by_column_and_by_identifier() -> None:
    source = Source(columns={"a": Column(), "b": Column(column="B!"), "c_d": Column(), "gone": Column()})
    bound = bind(source, ["a", "B!", "c d", "Other one"])
    assert bound.names == {"a": "a", "b": "B!", "c_d": "c d"}
    assert bound.ignored == {"Other_one": "Other one"}
    assert bound.missing == ("gone",)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source(time="tim", columns={"time": Column()}), "time='tim' names no column; the nearest one is 'time'"),
        (Source(unique=["x"], columns={"y": Column()}), "unique: 'x' names no column"),
        (Source(columns={"tenant": Column()}), "'tenant', a name the platform makes itself: set tenant: tenant"),
        (Source(columns={"row_id": Column()}), "'row_id', a name the platform makes itself"),
    ],
)
def test_contracts_that_contradict_themselves(source: Source, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(source, "s")


def test_a_platform_name_may_be_used_for_its_own_role() -> None:
    source = Source(tenant="tenant", known_at="known_at", columns={"tenant": Column(), "known_at": Column()})
    validate(source, "s")
    assert list(source.columns) == ["tenant", "known_at"]
