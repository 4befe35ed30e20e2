"""Encodings are learned from the train part alone, and no row that is fitted on sees its own label in one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from tests.training.tables import settings, training_set

from raysaas.errors import ConfigError
from raysaas.models.encodings import FOLD, NUM_FOLDS
from raysaas.records import Task
from raysaas.settings import Settings
from raysaas.training import boosting, runs
from raysaas.training.trees import plan_of
from raysaas.use_case import Encoding, Examples, Source, UseCase


def encoded(home: Path, encoding: Encoding, task: Task = Task.binary) -> Settings:
    plain = settings(str(home), task)
    examples = Examples(source="rows", label="label", positive="Yes" if task is Task.binary else None)
    return replace(plain, use_case=replace(plain.use_case, examples=examples, encodings={"plan": encoding}))


def poisoned(table: pa.Table, label: object) -> pa.Table:
    """The valid and test rows with another category and another label."""
    held = pc.not_equal(table["split"], "train")
    for name, value in (("plan", "poison"), ("label", label)):
        spoilt = pc.if_else(held, pa.scalar(value, table.schema.field(name).type), table[name])
        table = table.set_column(table.column_names.index(name), name, spoilt)
    return table


@pytest.mark.parametrize("encoding", [Encoding.ordinal, Encoding.frequency, Encoding.target])
@pytest.mark.parametrize(("task", "label"), [(Task.binary, "Yes"), (Task.regression, 1e6)])
def test_held_back_rows_cannot_influence_an_encoding(
    tmp_path: Path, encoding: Encoding, task: Task, label: object
) -> None:
    table, conf = training_set(600, task), encoded(tmp_path, encoding, task)
    clean = runs.prepare(conf, table).encoder
    spoilt = runs.prepare(conf, poisoned(table, label)).encoder
    assert spoilt.to_json() == clean.to_json()
    assert [field.folds for field in spoilt.fields] == [field.folds for field in clean.fields]

    train_pro = pc.and_(pc.equal(table["split"], "train"), pc.equal(table["plan"], "pro"))
    moved = pc.if_else(train_pro, "free", table["plan"])
    touched = table.set_column(table.column_names.index("plan"), "plan", moved)
    assert runs.prepare(conf, touched).encoder.to_json() != clean.to_json()


def test_trees_are_fitted_on_what_other_folds_say_and_measured_on_what_all_say(tmp_path: Path) -> None:
    table = training_set(600)
    material = runs.prepare(encoded(tmp_path, Encoding.target), table)
    rows = material.table.filter(pc.not_equal(material.table["split"], "test"))
    folds = np.asarray(rows[FOLD])
    assert sorted(set(folds.tolist())) == [-1, *range(NUM_FOLDS)]
    assert (folds[np.asarray(rows["split"]) != "train"] == -1).all()
    plan = plan_of(encoded(tmp_path, Encoding.target), material, rows)
    data = boosting._dataset(plan, rows).construct().get_data()
    place = [field.name for field in material.encoder.fields].index("plan")
    fitted = data[:, place]
    level = np.asarray(rows["plan"]) == "pro"
    assert len(set(fitted[level & (folds >= 0)].tolist())) == NUM_FOLDS
    assert len(set(fitted[level & (folds < 0)].tolist())) == 1
    rounds, _ = boosting.grow(plan, rows)
    assert rounds > 0


def test_folds_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    table, conf = training_set(300), encoded(tmp_path, Encoding.target)
    turned = table.take(np.arange(299, -1, -1))
    first, second = (runs.prepare(conf, one).table.sort_by("row_id") for one in (table, turned))
    assert first[FOLD].equals(second[FOLD])


def test_a_target_encoding_of_several_classes_and_of_an_unknown_feature_are_refused() -> None:
    spec = {"name": "u", "examples": Examples(source="s", label="y")}
    columns = {"y": {}, "plan": {}}
    with pytest.raises(ConfigError, match=r"encodings\.plan='target' is not allowed: expected onehot, ordinal or freq"):
        UseCase(**spec, sources={"s": Source()}, task=Task.multiclass, encodings={"plan": Encoding.target})
    with pytest.raises(ConfigError, match="names the feature 'plam': the use case has 'plan'"):
        UseCase(**spec, sources={"s": Source(columns=columns)}, encodings={"plam": Encoding.ordinal})
