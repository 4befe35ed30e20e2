"""Requests held to the column contract: as ingest judges the same rows, and by name over the whole path."""

import re
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.ingest.contract import check_rows
from raysaas.models.encode import Encoder
from raysaas.serving.contract import Contract, feature_columns
from raysaas.serving.protocol import PredictRequest
from raysaas.stores.journal import tail
from raysaas.use_case import Column, ColumnType, Examples, OnBroken, Source, UseCase, View

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
SOURCE = Source(columns={
    "amount": Column(min=-1.5, max=1e308), "visits": Column(type=ColumnType.integer, required=True, min=0),
    "size": Column(values=["1", "2.5"]), "vip": Column(type=ColumnType.boolean, required=True),
    "plan": Column(type=ColumnType.category, values=["pro", "a b", "é"]),
    "code": Column(type=ColumnType.category, required=True, pattern="[a-z]+[0-9]?"),
})  # fmt: skip
OTHER = Source(columns={"plan": Column(type=ColumnType.category, values=["x"])})
KINDS = {name: str(column.type) for name, column in SOURCE.columns.items()}
TRAINED = {
    "amount": np.array([1.0, 2]), "visits": np.array([1.0, 2]), "size": np.array([1.0, 2.5]), "vip": np.array([0.0, 1]),
    "plan": np.array(["pro", "é"], object), "code": np.array(["a1", "b"], object),
}  # fmt: skip
FIELDS = Encoder.fit(TRAINED, KINDS).fields
WHOLE = st.integers(-3, 3)
NUMBERS = st.one_of(WHOLE, st.sampled_from([-1.5, -1.5000001, 2.5, 1e308, 1.7e308, -0.0]))
VALUES = {
    "amount": st.none() | NUMBERS, "visits": st.none() | WHOLE, "size": st.none() | NUMBERS,
    "vip": st.none() | st.booleans(), "plan": st.none() | st.sampled_from(["pro", "PRO", "a b", "é", "e"]),
    "code": st.none() | st.text("ab1", min_size=1, max_size=3),
}  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries({}, optional=VALUES), min_size=1, max_size=4)


def accepted(columns, row, fields=FIELDS):
    try:
        Contract(columns).check(PredictRequest([row], [None], False), fields)
    except InputError:
        return False
    return True


@given(ROWS)
def test_a_request_is_refused_where_ingest_refuses_the_row(rows):
    columns = feature_columns(UseCase(name="shop", sources={"s": SOURCE}, examples=Examples(source="s", label="plan")))
    types = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.string()}
    table = pa.table({n: pa.array([row.get(n) for row in rows], types[KINDS[n]]) for n in KINDS})
    judged = check_rows(
        table, SOURCE, now=datetime.now(UTC), numbers=np.arange(len(rows)) + 1, file="f", digest="d" * 64
    )
    kept = [True] * len(rows)
    for number in judged.refused.column("row_number").to_pylist():
        kept[number - 1] = False
    assert [accepted(columns, row) for row in rows] == kept
    assert accepted(columns, rows[0]) == kept[0]
    if not all(kept):
        with pytest.raises(InputError) as told:
            Contract(columns).check(PredictRequest(rows, [None] * len(rows), False), FIELDS)
        assert int(re.match(r"Instance (\d+), field ", str(told.value))[1]) in np.flatnonzero(np.invert(kept))


def test_features_that_are_columns_have_a_contract_and_others_have_none():
    use_case = UseCase(
        name="shop", sources={"s": SOURCE, "t": OTHER},
        views={"a": View(source="s", columns=["plan", "visits"], lags={"amount": [1]}),
               "b": View(source="t", columns=["plan"]),
               "c": View(source="s", windows_days=[7], aggregates=["max:amount"])},
        examples=Examples(source="s", label="code"),
    )  # fmt: skip
    found = feature_columns(use_case)
    assert found.keys() == {"a_plan", "b_plan", "visits", "amount_lag_1"}
    assert (found["a_plan"].values, found["b_plan"].values) == (["pro", "a b", "é"], ["x"])
    assert (found["visits"].min, found["visits"].required) == (0, False), "a view may have no row of an entity"
    assert (found["amount_lag_1"].min, found["amount_lag_1"].required) == (-1.5, False)


def test_a_rule_that_only_warns_at_ingest_refuses_no_request():
    warned = {"min": OnBroken.warn, "visits.min": OnBroken.refuse_row, "code.required": OnBroken.warn}
    source = Source(columns=SOURCE.columns, on_broken=warned)
    found = feature_columns(UseCase(name="shop", sources={"s": source}, examples=Examples(source="s", label="code")))
    assert (found["amount"].min, found["amount"].max) == (None, 1e308)
    assert (found["visits"].min, found["code"].required) == (0, False)


CONTRACT = {
    "amount": Column(min=0, max=100), "visits": Column(type=ColumnType.integer, required=True),
    "plan": Column(type=ColumnType.category, values=["free", "pro"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field", "expected"),
    [
        ({"amount": -0.1}, "amount", "at least 0"), ({"amount": 1e308}, "amount", "at most 100"),
        ({"Amount (EUR)": 101}, "amount", "at most 100"), ({"visits": None}, "visits", "required"),
        ({"plan": "プラン"}, "plan", "one of free, pro"), ({"plan": ""}, "plan", "one of free, pro"),
    ],
)  # fmt: skip
def test_broken_contract_is_422_naming_row_field_and_what_is_allowed(make_app, change, field, expected):
    app = make_app(contract=CONTRACT)
    wrong = {k: v for k, v in ROW.items() if not (k == "amount" and "Amount (EUR)" in change)} | change
    reply = app.client("POST", "/predict", {"instances": [ROW, wrong]})
    assert reply.status == 422
    assert reply.json["detail"].startswith(f"Instance 1, field {field!r}")
    assert expected in reply.json["detail"]
    assert not tail(app.spec.storage.journal, "shop", "decisions", {})[0]
    assert all(str(value) not in reply.json["detail"] for value in change.values() if value not in (None, "", 101))


def test_edges_of_the_contract_are_answered(make_app):
    app = make_app(contract=CONTRACT)
    rows = [{"visits": 0}, ROW | {"amount": 100}, ROW | {"amount": -0.0}, ROW | {"amount": None, "plan": None}]
    assert app.client("POST", "/predict", {"instances": rows}).status == 200
    assert make_app(contract={}).client("POST", "/predict", {"instances": [ROW | {"amount": -5}]}).status == 200


def test_a_required_value_may_be_read_online_but_a_given_one_must_keep_the_contract(make_app):
    from raysaas.stores.online import OnlineStore

    app = make_app(contract=CONTRACT, views=("shop__money",))
    values = {"amount": 7.0, "visits": 3}
    OnlineStore(app.spec.storage.online_url).write("shop__money", [("acme", "c1", datetime.now(UTC), values)])
    assert app.client("POST", "/predict", {"entities": ["c1"]}).status == 200
    assert app.client("POST", "/predict", {"entities": ["c1"], "instances": [{"amount": 101}]}).status == 422


def test_tensors_are_held_to_the_contract_too(make_app):
    app = make_app(contract=CONTRACT)
    tensors = [{"name": n, "shape": [1], "datatype": "FP64", "data": [v]} for n, v in (ROW | {"amount": -1}).items()]
    assert app.client("POST", "/v2/models/shop/infer", {"inputs": tensors}).status == 422
