"""Which version of a row counts, against a loop over all rows."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.features.current_versions import current_versions
from raysaas.stores.tables import commit_order
from raysaas.use_case import Column, Duplicates, Keep, Source

DAY = datetime(2025, 1, 1, tzinfo=UTC)
FILES = ["b" * 16, "a" * 16]
rows_of = st.lists(
    st.fixed_dictionaries({
        "tenant": st.sampled_from(["x", "y"]), "k": st.sampled_from([1, 2, None]),
        "v": st.sampled_from([1, 2, 3, None]),
        "known_at": st.sampled_from([DAY, DAY + timedelta(days=1)]), "file": st.sampled_from([*FILES, "c" * 16]),
    }),
    max_size=20,
)  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    named = [{**row, "row_id": f"{row['file']}-{number + 1}"} for number, row in enumerate(rows)]
    schema = {"tenant": pa.string(), "k": pa.int64(), "v": pa.int64(), "known_at": pa.timestamp("us", "UTC")}
    return pa.Table.from_pylist(named, pa.schema({**schema, "row_id": pa.string()}))


def _source(keep: Keep) -> Source:
    by = "v" if keep is Keep.latest else None
    return Source(columns={"k": Column(), "v": Column()}, unique=["k"], duplicates=Duplicates(key=keep, by=by))


@settings(deadline=None, max_examples=60)
@given(rows=rows_of, keep=st.sampled_from([Keep.last, Keep.latest]))
def test_one_version_of_each_key_counts(rows: list[dict[str, Any]], keep: Keep) -> None:
    best: dict[Any, tuple[Any, int]] = {}
    for number, row in enumerate(rows):
        key = (row["tenant"], row["k"]) if row["k"] is not None else number
        came = FILES.index(row["file"]) if row["file"] in FILES else -1
        value = (row["v"] is not None, row["v"] or 0) if keep is Keep.latest else ()
        best[key] = max(best.get(key, ((), -1)), ((value, row["known_at"], came, number), number))
    kept = current_versions(_table(rows), _source(keep), FILES)
    assert [int(i.split("-")[1]) - 1 for i in kept["row_id"].to_pylist()] == sorted(n for _, n in best.values())


def test_other_sources_are_left_alone() -> None:
    rows = _table([{"tenant": "x", "k": 1, "v": 1, "known_at": DAY, "file": FILES[0]}] * 2)
    assert current_versions(rows, _source(Keep.first), FILES) is rows
    assert current_versions(rows, _source(Keep.all), FILES) is rows


def test_files_count_in_the_order_of_their_commits() -> None:
    committed = [["b" * 64], [], ["a" * 64, "d" * 64]]
    properties = [{"raysaas.files": json.dumps(files)} if files else {} for files in committed]
    assert commit_order({"properties": p} for p in properties) == [letter * 16 for letter in "bad"]
