"""Outcomes that came back as examples, and the split that judges a model on the newest regime."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from tests.features.worlds import NOW, STAMP, T0, day, world

from raysaas.features.feedback import MIN_ROWS, feedback, with_feedback
from raysaas.stores.tables import Tables
from raysaas.use_case import Column, Examples, Source, UseCase

CASE = UseCase(name="u", sources={"log": Source(columns={"y": Column()})}, examples=Examples(source="log", label="y"))


def logs(home: Path, decisions: list[dict[str, Any]], outcomes: list[dict[str, Any]]) -> Tables:
    _, tables = world(home, CASE)
    made = [{"use_case": "u", "tenant": "t", "entity": None, "inputs": "{}", "time": T0, **row} for row in decisions]
    seen = [{"use_case": "u", "tenant": "t", "label": "yes", "observed_at": day(1), **row} for row in outcomes]
    tables.append("log.decisions", _table(made))
    tables.append("log.outcomes", _table(seen))
    return tables


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    kinds = {"time": STAMP, "observed_at": STAMP}
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in rows[0]})


def test_a_decision_counts_once_with_its_latest_outcome(tmp_path: Path) -> None:
    tables = logs(
        tmp_path,
        [{"id": "d1"}, {"id": "d2"}, {"id": "other", "use_case": "v"}],
        [{"decision_id": "d1", "label": "no"}, {"decision_id": "d1", "label": "yes", "observed_at": day(2)},
         {"decision_id": "other"}, {"decision_id": "d2", "tenant": "thief"}],
    )  # fmt: skip
    rows = feedback(CASE, tables, NOW)
    assert rows is not None
    assert rows.select(["row_id", "label", "known_at"]).to_pylist() == [
        {"row_id": "d1", "label": "yes", "known_at": day(2)}
    ]
    early = feedback(CASE, tables, day(1))
    assert early is not None
    assert early["label"].to_pylist() == ["no"]
    assert feedback(CASE, tables, day(0.5)) is None


def training(size: int = 100) -> pa.Table:
    split = np.where(np.arange(size) % 5 == 0, "test", np.where(np.arange(size) % 5 == 1, "valid", "train"))
    times = pa.array([T0 - timedelta(days=1)] * size, STAMP)
    return pa.table({
        "row_id": [f"r{n}" for n in range(size)], "tenant": ["t"] * size, "entity": [f"e{n}" for n in range(size)],
        "event_time": times, "known_at": times, "split": split.tolist(), "label": ["yes", "no"] * (size // 2),
        "x": np.arange(size, dtype=float), "n": np.arange(size), "s": ["k"] * size, "b": [True] * size,
    })  # fmt: skip


def told(size: int, entity: bool, **columns: list[Any]) -> pa.Table:
    inputs = [orjson.dumps({"x": n + 0.5, "n": n, "s": "new", "b": False, "gone": 1}).decode() for n in range(size)]
    base = {
        "row_id": [f"d{n}" for n in range(size)], "tenant": ["t"] * size,
        "entity": pa.array([f"e{n % 90}" if entity else None for n in range(size)], pa.string()),
        "event_time": pa.array([day(1)] * size, STAMP), "known_at": pa.array([day(2)] * size, STAMP),
        "label": ["yes"] * size, "inputs": inputs,
    }  # fmt: skip
    return pa.table({**base, **columns})


def test_inputs_become_feature_columns_of_the_same_types(tmp_path: Path) -> None:
    joined = with_feedback(training(), told(MIN_ROWS, False), CASE)
    assert joined.schema == training().schema
    row = next(row for row in joined.to_pylist() if row["row_id"] == "d7")
    assert (row["x"], row["n"], row["s"], row["b"], row["label"], row["event_time"]) == (
        7.5,
        7,
        "new",
        False,
        "yes",
        day(1),
    )


def test_the_test_part_is_feedback_and_nobody_is_on_both_sides() -> None:
    joined = with_feedback(training(), told(1000, False), CASE)
    parts = {
        part: [r["row_id"] for r in joined.to_pylist() if r["split"] == part] for part in ("train", "valid", "test")
    }
    assert all(row.startswith("d") for row in parts["test"])
    assert 280 < len(parts["test"]) < 420
    assert len([row for row in parts["train"] if row.startswith("r")]) == 60
    assert {f"r{n}" for n in range(0, 100, 5)}.isdisjoint(row for rows in parts.values() for row in rows)


def test_named_entities_free_the_old_test_rows_that_do_not_judge() -> None:
    joined = with_feedback(training(), told(900, True), CASE).to_pylist()
    judged = {row["entity"] for row in joined if row["row_id"].startswith("d") and row["split"] != "train"}
    trained = {row["entity"] for row in joined if row["row_id"].startswith("d") and row["split"] == "train"}
    freed = {row["entity"] for row in joined if row["row_id"].startswith("r") and int(row["row_id"][1:]) % 5 == 0}
    assert judged.isdisjoint(trained)
    assert freed == {f"e{n}" for n in range(0, 100, 5)} - judged


def test_few_rows_wait_and_unknown_labels_are_left_out() -> None:
    assert with_feedback(training(), told(MIN_ROWS - 1, False), CASE) == training()
    assert with_feedback(training(), told(MIN_ROWS, False, label=["maybe"] * MIN_ROWS), CASE) == training()


def test_inputs_of_another_type_are_missing() -> None:
    odd = [orjson.dumps({"x": "wide", "n": None, "s": 3, "b": "true"}).decode()] * MIN_ROWS
    joined = with_feedback(training(), told(MIN_ROWS, False, inputs=odd), CASE)
    row = next(row for row in joined.to_pylist() if row["row_id"].startswith("d"))
    assert (row["x"], row["n"], row["s"], row["b"]) == (None, None, "3", None)


def test_only_the_newer_half_judges_and_no_entity_is_on_both_sides() -> None:
    moments = pa.array([day(1 + n / 1000) for n in range(900)], STAMP)
    joined = with_feedback(training(), told(900, True, event_time=moments), CASE).to_pylist()
    judging = [row for row in joined if row["split"] == "test"]
    assert len(judging) > 100
    assert min(row["event_time"] for row in judging) >= day(1.449)
    assert {row["entity"] for row in joined if row["split"] == "train" and row["row_id"][0] == "d"}.isdisjoint(
        row["entity"] for row in judging
    )
