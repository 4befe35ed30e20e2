"""Decisions whose outcome came back, as examples: the inputs they were made on, labelled by what then happened.

With at least ``MIN_ROWS`` of them the test part holds feedback only, so that after a change a retrained model is judged
on the newest regime: 40 % of the newer half of the feedback, by hash of the entity (or of the inputs), is test; 15 % of
all joins valid, the rest joins train; older feedback of the entities that are judged leaves the set. Examples that were
the test part before may have been replayed as traffic: they leave the set, unless all feedback names its entity; then
those of entities that are not judged join train. Fewer feedback rows wait until there are enough: in train they could
repeat rows that judge.
"""

from collections.abc import Mapping
from datetime import datetime

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.features.definitions import STAMP
from raysaas.features.examples import normal_label
from raysaas.features.raw import LOGS
from raysaas.features.split import MIN_GROUPS, shares
from raysaas.stores.logs import SCHEMAS, completed
from raysaas.stores.matured import joined
from raysaas.stores.tables import Tables
from raysaas.use_case import UseCase

MIN_ROWS = 200
_READ = {LOGS[0]: ["id", "tenant", "entity", "time", "inputs", "key"],
         LOGS[1]: ["decision_id", "tenant", "label", "observed_at", "key", "known_at"]}  # fmt: skip
_TEST, _VALID = 0.40, 0.15


def feedback(
    use_case: UseCase, tables: Tables, as_of: datetime, snapshots: Mapping[str, int] | None = None
) -> pa.Table | None:
    """Decisions made by ``as_of`` with their latest outcome observed by then; None when there are none.

    They are read from the given ``snapshots`` of the two logs (from none, where one of them is not named), else from
    those that hold now.
    Columns ``row_id, tenant, entity, event_time, known_at, label, inputs`` (JSON); a decision counts once.
    """
    read_from = {name: tables.current(name) for name in LOGS} if snapshots is None else snapshots
    if not all(read_from.get(name) for name in LOGS):
        return None
    decisions, outcomes = (_log(tables, name, read_from[name], use_case.name) for name in LOGS)
    by_then = pa.scalar(as_of, STAMP)
    told = joined(
        decisions.filter(pc.less_equal(decisions["time"], by_then)),
        outcomes.filter(pc.less_equal(outcomes["observed_at"], by_then)),
    )
    told = told.filter(pc.is_valid(told["outcome"]))
    names = {"row_id": "id", "tenant": "tenant", "entity": "entity", "event_time": "time", "known_at": "observed_at",
             "label": "outcome", "inputs": "inputs"}  # fmt: skip
    return pa.table({name: told[column] for name, column in names.items()}) if told.num_rows else None


def _log(tables: Tables, name: str, snapshot: int | None, use_case: str) -> pa.Table:
    """What is needed of a log; a version of an earlier release has not all of it."""
    known = set(tables.schema(name, snapshot).names)
    columns = [column for column in _READ[name] if column in known]
    rows = tables.read(name, snapshot=snapshot, where=f"use_case == '{use_case}'", columns=columns)
    return completed(rows, SCHEMAS[name.removeprefix("log.")])


def with_feedback(training: pa.Table, rows: pa.Table, use_case: UseCase) -> pa.Table:
    """``training`` plus feedback ``rows`` whose label it knows, with the split of the rule above."""
    rows = _as_examples(rows, training, use_case)
    if rows.num_rows < MIN_ROWS:
        return training
    groups = rows.select(["tenant", "who"]).group_by(["tenant", "who"]).aggregate([]).num_rows
    hashes = shares(rows, ["tenant", "who"] if groups >= MIN_GROUPS else ["row_id"])
    moments = rows["event_time"].cast(pa.int64()).to_numpy()
    kept = (hashes >= _TEST) | (moments >= np.median(moments))
    rows, hashes = rows.filter(pa.array(kept)), hashes[kept]
    parts = np.where(hashes < _TEST, "test", np.where(hashes < _TEST + _VALID, "valid", "train"))
    named = pc.all(pc.is_valid(rows["entity"])).as_py()
    training = _without_old_test(training, rows.filter(pa.array(parts != "train")) if named else None)
    split = pa.array(parts.tolist(), pa.string())
    return pa.concat_tables([training, rows.drop_columns(["who"]).add_column(5, "split", split)])


def _as_examples(rows: pa.Table, training: pa.Table, use_case: UseCase) -> pa.Table:
    inputs = [orjson.loads(text) if text else {} for text in rows["inputs"].to_pylist()]
    columns = {name: rows[name] for name in ("row_id", "tenant", "entity", "event_time", "known_at")}
    columns["label"] = normal_label(_label(rows["label"], training["label"].type), use_case.task)
    for field in training.schema:
        if field.name not in columns and field.name != "split":
            columns[field.name] = pa.array([_fit(row.get(field.name), field.type) for row in inputs], field.type)
    columns["who"] = pc.coalesce(rows["entity"], rows["inputs"])
    table = pa.table(columns)
    known = pc.is_valid(table["label"])
    if not pa.types.is_floating(training["label"].type):
        known = pc.and_(known, pc.is_in(table["label"], pc.unique(training["label"])))
    return table.filter(known)


def _label(label: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if not pa.types.is_floating(kind):
        return label
    return pa.chunked_array([pa.array([_fit(text, kind) for text in label.to_pylist()], kind)])


def _fit(value: object, kind: pa.DataType) -> object:
    """``value`` as the column holds it, or null where a logged input is of another type."""
    if value is None or pa.types.is_string(kind):
        return None if value is None else str(value)
    if pa.types.is_boolean(kind):
        return bool(value) if value in (0, 1) else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if pa.types.is_floating(kind) else int(number) if number == number and abs(number) < 2**63 else None


def _without_old_test(training: pa.Table, judged: pa.Table | None) -> pa.Table:
    old = pc.equal(training["split"], "test")
    rest = training.filter(pc.invert(old))
    if judged is None:
        return rest
    who = ["tenant", "entity"]
    free = training.filter(old).join(judged.select(who).group_by(who).aggregate([]), who, join_type="left anti")
    free = free.select(training.column_names).sort_by("row_id")
    train = pa.array(["train"] * free.num_rows, pa.string())
    return pa.concat_tables([rest, free.set_column(training.column_names.index("split"), "split", train)])
