"""Objects inside rows become columns, alike in JSON Lines and Parquet; lists stay out of use cases."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysaas.errors import InputError
from raysaas.ingest.contract import check
from raysaas.ingest.formats import SourceFile, blocks, split
from raysaas.ingest.infer import infer
from raysaas.ingest.sources import describe, read
from raysaas.ingest.staging import part_types
from raysaas.use_case import Column, ColumnType, Source

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {"user": {"age": 30, "plan": "pro", "home": {"city": "Köln"}}, "tags": ["x"], "n": 1},
    {"user": None, "tags": [], "n": 2},
    {"n": 3},
    {"user": {"plan": "free", "home": None}, "tags": None, "n": 4},
]
FLAT = {"user.age": [30, None, None, None], "user.plan": ["pro", None, None, "free"],
        "user.home.city": ["Köln", None, None, None]}  # fmt: skip


def _jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def _parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "data.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
    return path


def _write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> Path:
    return (_jsonl if suffix == "jsonl" else _parquet)(folder, rows)


def _file(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> SourceFile:
    return describe(str(_write(folder, suffix, rows)))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_fields_of_objects_are_columns(tmp_path: Path, suffix: str) -> None:
    file = _file(tmp_path, suffix, ROWS)
    assert file.header == (*FLAT, "tags", "n")
    assert (file.nested, dict(file.holds)) == (tuple(FLAT), {"tags": "lists"})
    found = read(file)
    assert tuple(found.column_names) == file.header
    as_text = {name: [None if v is None else str(v) for v in found[name].to_pylist()] for name in FLAT}
    assert as_text == {name: [None if v is None else str(v) for v in values] for name, values in FLAT.items()}
    parts = split(file, 60)
    assert len(parts) > 1
    assert [v for p in parts for b in blocks(p) for v in b.table["user.plan"].to_pylist()] == FLAT["user.plan"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_contract_names_them_by_path_or_flat(tmp_path: Path, suffix: str) -> None:
    table = read(_file(tmp_path, suffix, ROWS))
    plan = Column(type=ColumnType.category, column="user.plan")
    source = Source(columns={"user_age": Column(type=ColumnType.integer, max=20), "plan": plan})
    done = check(table, source, now=NOW)
    assert done.accepted.select(["user_age", "plan"]).to_pylist() == [
        {"user_age": None, "plan": plan} for plan in (None, None, "free")
    ]
    (refused,) = done.refused.to_pylist()
    assert (refused["rule"], refused["column"], refused["row_number"]) == ("max", "user_age", 1)
    assert str(json.loads(refused["row"])["user.age"]) == "30"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_without_a_contract_lists_are_left_out(tmp_path: Path, suffix: str) -> None:
    (part,) = split(_file(tmp_path, suffix, ROWS), 1 << 20)
    assert list(part_types(part)) == [*FLAT, "n"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_use_case_takes_them_flat_and_says_so(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    users = [{"age": int(rng.integers(18, 80)), "plan": str(rng.choice(["free", "pro"]))} for _ in range(200)]
    rows = [{"user": user if i % 9 else None, "tags": ["x"] * (i % 3), "churn": i % 2} for i, user in enumerate(users)]
    path = _write(tmp_path, suffix, rows)
    use_case, said = infer(path, "mine")
    columns = use_case.sources["rows"].columns
    assert {key: column.column for key, column in columns.items()} == {
        "user_age": "user.age", "user_plan": "user.plan", "churn": None
    }  # fmt: skip
    assert columns["user_plan"].type is ColumnType.category
    assert "'tags' is not used: it holds lists." in said
    assert "Objects are read field by field, and requests give those fields flat: 'user_age', 'user_plan'." in said
    assert infer(path, "mine", label="user_plan")[0].examples.label == "user_plan"
    with pytest.raises(InputError, match="--label 'tags' holds lists"):
        infer(path, "mine", label="tags")


def test_what_is_not_always_an_object_stays_whole(tmp_path: Path) -> None:
    file = _file(tmp_path, "jsonl", [{"user": {"age": 1}, "n": 1}, {"user": "anonymous", "n": 2}])
    assert (file.header, dict(file.holds)) == (("user", "n"), {"user": "objects"})
    assert read(file)["user"].to_pylist() == ['{"age":1}', "anonymous"]


def test_a_map_is_one_column_and_wide_rows_are_many(tmp_path: Path) -> None:
    rows = [{"by_id": {f"id{i}": 1}, "wide": {f"f{j}": j for j in range(150)}} for i in range(200)]
    file = _file(tmp_path, "jsonl", rows)
    assert dict(file.holds) == {"by_id": "objects"}
    assert len(file.header) == 151


def test_odd_keys_find_their_values(tmp_path: Path) -> None:
    file = _file(tmp_path, "jsonl", [{"a/b": {"it's": {"~0": 1, "": 2}}, "x.y": 3}])
    assert read(file).to_pydict() == {"a/b.it's.~0": ["1"], "a/b.it's.": ["2"], "x.y": ["3"]}


def test_a_bottomless_object_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"n": 1, "deep": ' + '{"a": ' * 400 + "1" + "}" * 400 + "}\n" + '{"n": ' * 9999 + "1" + "}" * 9999)
    assert "objects" in describe(str(path)).holds.values()


def test_a_key_with_a_dot_may_not_be_taken_for_a_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"two columns named 'user\.age'"):
        _file(tmp_path, "jsonl", [{"user": {"age": 1}, "user.age": 2}])
