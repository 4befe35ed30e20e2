"""Rules between columns and between rows, and what a broken one does, against plain Python."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import ConfigError
from raysaas.ingest.binding import validate
from raysaas.ingest.contract import check
from raysaas.use_case import Column, ColumnType, Duplicates, Keep, OnBroken, Source

NOW = datetime(2025, 6, 1, tzinfo=UTC)
TEXT, WHOLE = Column(type=ColumnType.category), Column(type=ColumnType.integer)
ORG = {"org": TEXT, "key": WHOLE, "x": WHOLE}


def _table(**columns: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _told(table: pa.Table) -> list[tuple[int, str, str, str | None]]:
    return [(r["row_number"], r["rule"], r["column"], r["value"]) for r in table.to_pylist()]


def test_a_pattern_must_match_the_whole_text() -> None:
    source = Source(columns={"sku": Column(type=ColumnType.text, pattern="[A-Z]{2}-[0-9]+|none at all")})
    done = check(_table(sku=["AB-1", "xAB-1", "AB-1\n", "ab-1", None, "none at all", "AB-"]), source, now=NOW)
    assert [n for n, *_ in _told(done.refused)] == [2, 4, 7], "blanks around a text are not part of it"
    assert _told(done.refused)[0] == (2, "pattern", "sku", "xAB-1")


def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(ConfigError, match=r"columns\.sku\.pattern='\(' is no regular expression"):
        check(_table(sku=["a"]), Source(columns={"sku": Column(type=ColumnType.text, pattern="(")}), now=NOW)
    with pytest.raises(ConfigError, match=r"pattern='a' is not allowed"):
        Column(type=ColumnType.integer, pattern="a")


def test_a_condition_refuses_where_it_is_false_and_lets_unknown_pass() -> None:
    source = Source(
        columns={"low": WHOLE, "high": WHOLE, "word": TEXT}, derive={"span": "high - low"},
        rules={"ordered": "low <= high", "short": "span < 100", "whole": "word::INTEGER > 0"},
    )  # fmt: skip
    table = _table(low=["1", "5", None, "1", "1"], high=["2", "4", "1", "900", "2"], word=["7", "7", "7", "7", "no"])
    done = check(table, source, now=NOW)
    assert _told(done.refused) == [(2, "ordered", "", "low=5, high=4"), (4, "short", "", "span=899")]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("nothing > 1", r"rules\.odd='nothing > 1' does not work: .*nothing.* Columns to use: x"),
        ("x + 1", r"rules\.odd='x \+ 1' gives int64: expected a condition"),
        ("x >", r"rules\.odd='x >' does not work"),
    ],
)
def test_a_condition_that_is_none_is_told_by_name(condition: str, message: str) -> None:
    source = Source(columns={"x": WHOLE}, rules={"fine": "x > 0", "odd": condition})
    with pytest.raises(ConfigError, match=message):
        check(_table(x=["1"]), source, now=NOW)


def test_references_hold_within_a_tenant() -> None:
    source = Source(tenant="org", columns=ORG, references={"key": "others.id"})
    table = _table(org=["a", "b", "a", "a"], key=["1", "1", None, "9"], x=["0"] * 4)
    known = pa.table({"value": [1, 9, 9], "tenant": ["a", "a", "b"]})
    done = check(table, source, now=NOW, referenced={"key": known})
    assert _told(done.refused) == [(2, "references", "key", "1")]
    anyone = check(table, source, now=NOW, referenced={"key": known.select(["value"])})
    assert _told(anyone.refused) == []


def test_a_key_is_unique_within_its_tenant() -> None:
    table = _table(org=["a", "b", "a", "b"], key=["1", "1", "1", "2"], x=["0"] * 4)
    done = check(table, Source(tenant="org", columns=ORG, unique=["key"]), now=NOW)
    assert _told(done.refused) == [(3, "unique", "key", "1")]
    everyone = check(table, Source(columns=ORG, unique=["key"]), now=NOW)
    assert [n for n, *_ in _told(everyone.refused)] == [2, 3]


@pytest.mark.parametrize("keep", [Keep.all, Keep.last])
def test_every_version_of_a_key_may_be_kept(keep: Keep) -> None:
    source = Source(columns=ORG, unique=["key"], duplicates=Duplicates(key=keep))
    assert check(_table(org=["a"] * 3, key=["1"] * 3, x=["0", "1", "0"]), source, now=NOW).accepted.num_rows == 3


rows_of = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "2", "3", ""]), st.sampled_from(["0", "1", "2"])),
    max_size=15,
)


@settings(deadline=None, max_examples=40)
@given(rows=rows_of)
def test_copies_go_before_keys_are_compared(rows: list[tuple[str, str, str]]) -> None:
    source = Source(tenant="org", columns=ORG, unique=["key"], duplicates=Duplicates(exact=Keep.first))
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    done = check(_table(**dict(zip(("org", "key", "x"), map(list, columns), strict=True))), source, now=NOW)
    kept, refused, copies, seen, keys = [], [], 0, set(), set()
    for number, row in enumerate(rows, 1):
        if row in seen:
            copies += 1
            continue
        seen.add(row)
        (refused if row[:2] in keys else kept).append(number)
        keys |= {row[:2]} if row[1] else set()
    assert [int(i.split("-")[1]) for i in done.accepted["row_id"].to_pylist()] == kept
    assert (done.refused["row_number"].to_pylist(), done.copies) == (refused, copies)
    assert [(one.rule, one.count, one.action) for one in done.told] == ([("exact", copies, "drop")] if copies else [])


def test_a_rule_that_warns_keeps_the_row() -> None:
    actions = {"x.max": OnBroken.warn, "sane": OnBroken.warn, "unique": OnBroken.warn, "x.type": OnBroken.warn}
    source = Source(columns=ORG | {"x": Column(max=5)}, unique=["key"], rules={"sane": "x <> 4"}, on_broken=actions)
    table = _table(org=["a"] * 5, key=["1", "2", "2", "3", "x"], x=["9", "4", "4", "much", "9"])
    done = check(table, source, now=NOW, file="f.csv")
    assert _told(done.refused) == [(5, "type", "key", "x")]
    assert done.accepted["x"].to_pylist() == [9, 4, 4, None]
    told = [(one.rule, one.column, one.count, one.value, one.file, one.row_number, one.action) for one in done.told]
    assert told == [
        ("type", "x", 1, "much", "f.csv", 4, "warn"), ("max", "x", 1, "9", "f.csv", 1, "warn"),
        ("sane", "", 2, "x=4.0", "f.csv", 2, "warn"), ("unique", "key", 1, "2", "f.csv", 3, "warn"),
    ]  # fmt: skip


def test_a_row_without_its_entity_is_refused_whatever_rules_warn() -> None:
    source = Source(entity="key", columns=ORG, on_broken={"type": OnBroken.warn, "required": OnBroken.warn})
    done = check(_table(org=["a", "a"], key=["1", "z"], x=["0", "0"]), source, now=NOW)
    assert _told(done.refused) == [(2, "required", "key", None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_broken": {"uniqe": OnBroken.warn}}, "'uniqe' is no rule of this source; did you mean 'unique'"),
        ({"on_broken": {"kee.min": OnBroken.warn}}, "'kee.min' is no rule of this source; did you mean 'key.min'"),
        ({"on_broken": {"min_rows": OnBroken.refuse_row}}, "min_rows=refuse_row: this rule looks at the batch"),
        ({"on_broken": {"columns": OnBroken.warn}}, "columns=warn: such a row has no place"),
        ({"on_broken": {"key.required": OnBroken.warn}, "entity": "key"}, "key.required=warn: such a row has no"),
        ({"rules": {"unique": "true"}}, r"rules\.unique: choose a name"),
        ({"references": {"kex": "a.b"}}, "references: 'kex' names no column; the nearest one is 'key'"),
        ({"duplicates": Duplicates(key=Keep.latest, by="x")}, "duplicates.key=latest needs unique"),
        ({"max_age_hours": 2.0}, "max_age_hours needs the time"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(Source(columns=ORG, **changes), "rows")
