"""Inference of a use case from files nobody described."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from raysaas.errors import InputError
from raysaas.ingest.infer import infer, to_yaml
from raysaas.records import Task
from raysaas.use_case import ColumnType, UseCase

ROWS = 60
COLUMNS = {
    "floats": lambda rng: rng.normal(size=ROWS),
    "gaps": lambda rng: np.where(rng.random(ROWS) < 0.3, np.nan, rng.normal(size=ROWS)),
    "integers": lambda rng: rng.integers(0, 9, ROWS),
    "words": lambda rng: rng.choice(["red", "green", "blue", None], ROWS),
    "booleans": lambda rng: rng.random(ROWS) < 0.5,
    "times": lambda rng: pd.Timestamp("2024-05-01") + pd.to_timedelta(rng.integers(0, 10**6, ROWS), unit="s"),
    "constant": lambda rng: np.full(ROWS, 3),
    "missing": lambda rng: np.full(ROWS, np.nan),
}


def reloaded(use_case: UseCase, said: list[str]) -> Any:
    shape = OmegaConf.structured(UseCase)
    return OmegaConf.to_object(OmegaConf.merge(shape, OmegaConf.create(to_yaml(use_case, said))))


def frame(**columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({"x": rng.normal(size=200), **columns})


def inferred(tmp_path: Path, data: pd.DataFrame, **given_: str) -> tuple[UseCase, str]:
    data.to_csv(tmp_path / "data.csv", index=False)
    use_case, said = infer(tmp_path / "data.csv", "mine", **given_)
    return use_case, " ".join(said)


LETTERS = st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])
NAMES = st.text(LETTERS, min_size=1, max_size=12).map(str.strip).filter(lambda name: any(ch.isalpha() for ch in name))
KINDS = st.lists(st.sampled_from(sorted(COLUMNS)), min_size=6, max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(NAMES, min_size=2, max_size=6, unique=True),
    kinds=KINDS,
    suffix=st.sampled_from(["csv", "parquet"]),
    seed=st.integers(0, 99),
)
@example(names=["A", "0E0"], kinds=["booleans"] * 6, suffix="csv", seed=0)
def test_what_pandas_wrote_comes_back_through_yaml(
    tmp_path: Path, names: list[str], kinds: list[str], suffix: str, seed: int
) -> None:
    rng, path = np.random.default_rng(seed), tmp_path / f"data.{suffix}"
    data = pd.DataFrame({name: COLUMNS[kind](rng) for name, kind in zip(names, kinds, strict=False)})
    data["certain feature"], data["the label"] = rng.normal(size=ROWS), rng.choice(["stay", "go"], ROWS)
    data.to_csv(path, index=False) if suffix == "csv" else data.to_parquet(path)
    use_case, said = infer(path, "mine", label="the label")
    assert reloaded(use_case, said) == use_case
    source = use_case.sources["rows"]
    keys = [*source.columns, *source.derive]
    assert all(key.isidentifier() and key.isascii() for key in keys)
    assert len({key.lower() for key in keys}) == len(keys)
    assert {column.column or key for key, column in source.columns.items()} <= set(data.columns)


@pytest.mark.parametrize(
    ("values", "task", "positive"),
    [
        (["No", "Yes", "No", "No"], Task.binary, "Yes"),
        ([0, 1, 0, 1], Task.binary, "1"),
        ([True, False, False, False], Task.binary, "True"),
        (["b", "a", "a", "a"], Task.binary, "b"),
        ([1, 2, 3, 4], Task.multiclass, None),
        (["x", "y", "z", "z"], Task.multiclass, None),
        ([1.5, 2.5, 3.5, 1.5], Task.regression, None),
    ],
)
def test_the_task_follows_from_the_values_of_the_label(
    tmp_path: Path, values: list[Any], task: Task, positive: str | None
) -> None:
    use_case, said = inferred(tmp_path, frame(answer=values * 50), label="answer")
    assert (use_case.task, use_case.examples.positive) == (task, positive)
    assert str(task) in said


def test_many_whole_numbers_are_a_regression_that_says_how_to_override(tmp_path: Path) -> None:
    use_case, said = inferred(tmp_path, frame(price=np.arange(200) % 50), label="price")
    assert use_case.task is Task.regression
    assert "task: multiclass" in said


def test_ids_constants_and_texts_are_dropped_with_a_sentence_each(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    words = [f"it was {' and '.join(rng.choice(list('abcdefgh'), 7))} said the man" for _ in range(200)]
    uuids = [f"{x:032x}" for x in rng.integers(0, 2**62, 200)]
    data = frame(order_id=range(200), uuid=uuids, notes=words, fixed=1, void=None, churn=rng.integers(0, 2, 200))
    use_case, said = inferred(tmp_path, data)
    source = use_case.sources["rows"]
    assert source.entity in ("order_id", "uuid")
    assert [key for key, column in source.columns.items() if column.type is not ColumnType.text] == ["x", "churn"]
    for name in ("notes", "fixed", "void"):
        assert f"{name!r} is not used" in said


def test_messy_numbers_are_cleaned_and_codes_stay_words(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    data = frame(
        age=np.where(rng.random(200) < 0.05, "?", rng.integers(18, 90, 200).astype(str)),
        pay=[f"${x:,.2f}" for x in rng.lognormal(9, 1, 200)],
        zip=[f"{x:05d}" for x in rng.integers(1, 20, 200)],
        y=rng.integers(0, 2, 200),
        active=rng.choice(["YES", "no", ""], 200),
    )
    source = inferred(tmp_path, data)[0].sources["rows"]
    assert set(source.derive) == {"age", "pay"}
    assert source.columns["zip"].type is ColumnType.category
    assert source.columns["active"].type is ColumnType.boolean


def test_time_and_tenant_are_found(tmp_path: Path) -> None:
    when = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(200) * 3571, unit="s")
    data = frame(created_at=when, birth_date="1990-01-01", org_id=["a", "b"] * 100, y=[0, 1] * 100)
    source = inferred(tmp_path, data)[0].sources["rows"]
    assert (source.time, source.tenant) == ("created_at", "org_id")
    assert {"created_at_hour", "created_at_weekday"} == set(source.derive)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"label": "chrun"}, "the nearest is 'churn'"),
        ({"label": "fixed"}, "only the value 'a'"),
        ({"label": "void"}, "no value at all"),
        ({"label": "names"}, "too many to be classes"),
        ({"time": "x"}, "not times"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path: Path, given_: dict[str, str], message: str) -> None:
    data = frame(names=[f"n{i}" for i in range(200)], fixed="a", void=None, churn=[0, 1] * 100)
    with pytest.raises(InputError, match=message):
        inferred(tmp_path, data, **given_)


def test_a_surprise_late_in_a_long_file_is_seen(tmp_path: Path) -> None:
    label = ["a"] * 30_000
    label[29_990] = "b"
    data = pd.DataFrame({"x": np.arange(30_000) * 0.5, "constant": [1] * 29_999 + [2], "y": label})
    use_case, _ = inferred(tmp_path, data)
    assert (use_case.task, use_case.examples.positive) == (Task.binary, "b")
    assert "constant" in use_case.sources["rows"].columns


def test_a_comma_before_decimals_is_not_a_thousands_separator(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    price = rng.uniform(1, 5000, 200).round(2)
    german = [f"{value:,.2f}".translate(str.maketrans(",.", ".,")) for value in price]
    path = tmp_path / "semi.csv"
    frame(price=german, us=[f"${value:,.2f}" for value in price], y=rng.choice(["a", "b"], 200)).to_csv(path, sep=";")
    use_case, _ = infer(str(path), "semi", label="y")
    (source,) = use_case.sources.values()
    derive = source.derive
    with duckdb.connect() as db:
        for key, text in (("price", german[0]), ("us", f"${price[0]:,.2f}")):
            expression = next(sql for sql in derive.values() if f'"{key}"' in sql)
            assert db.execute(f'SELECT {expression} FROM (SELECT ? AS "{key}")', [text]).fetchone() == (price[0],)


def test_a_label_chosen_late_is_judged_on_all_its_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    price = rng.normal(size=9000)
    price[::30] = np.nan
    notes = [f"note {number} " * 12 for number in range(9000)]  # the last column cannot be the label
    use_case, said = inferred(tmp_path, pd.DataFrame({"x": rng.normal(size=9000), "price": price, "notes": notes}))
    assert (use_case.examples.label, use_case.task) == ("price", Task.regression)
    assert "300 rows have no label" in said
    assert "8,700 distinct numbers" in said


@pytest.mark.parametrize(("value", "has"), [(1, "one value only"), (None, "no value at all")])
def test_a_label_by_name_that_teaches_nothing_is_refused(tmp_path: Path, value: Any, has: str) -> None:
    data = frame(z=np.arange(200) % 2, y=value)
    with pytest.raises(InputError, match=f"'y' is named like a label but has {has}: nothing to learn.*--label"):
        inferred(tmp_path, data)
    assert inferred(tmp_path, data, label="z")[0].examples.label == "z"
    assert inferred(tmp_path, data.assign(churn=data["z"]))[0].examples.label == "churn"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_infinities_are_counted_over_all_rows(tmp_path: Path, suffix: str) -> None:
    data = pd.DataFrame({"ratio": np.arange(40_000) / 7, "fine": np.arange(40_000) % 99, "y": np.arange(40_000) % 2})
    data.loc[[4, 39_998], "ratio"] = [-np.inf, np.inf]
    path = tmp_path / f"data.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in data.to_dict("records")))
    else:
        data.to_csv(path, index=False) if suffix == "csv" else data.to_parquet(path)
    said = infer(path, "mine")[1]
    assert [s for s in said if "infinite" in s] == [
        "'ratio' holds 2 infinite values: rows with them will be refused."
    ]  # fmt: skip


def test_a_decimal_comma_is_told(tmp_path: Path) -> None:
    prices = [f"{number},5 €" for number in range(1, 201)]
    pay = [f"${number}.5" for number in range(200)]
    use_case, said = inferred(tmp_path, frame(**{"Preis (€)": prices, "pay": pay, "y": [0, 1] * 100}))
    assert "'Preis (€)' is read as a number with a decimal comma: signs are cut off" in said
    assert "'pay' is read as a number: signs are cut off" in said
    with duckdb.connect() as db:
        found = db.execute(f"SELECT {use_case.sources['rows'].derive['Preis']} FROM (SELECT '1.234,5 €' AS Preis)")
        assert found.fetchone() == (1234.5,)
