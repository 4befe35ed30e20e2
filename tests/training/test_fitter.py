"""The fit itself, in this process: determinism, exact resumption, early stopping, and that it learns."""

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from tests.training.tables import settings, training_set

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.training import runs
from raysaas.training.arrays import part
from raysaas.training.fitter import Fitter, Plan
from raysaas.training.trainer import plan_of


def _plan(table: pa.Table, task: Task = Task.binary, **changes: object) -> Plan:
    chosen = settings("/nowhere", task)
    return replace(plan_of(chosen, runs.prepare(chosen, table)), **changes)  # type: ignore[arg-type]


def _run(fitter: Fitter, table: pa.Table, epochs: int | None = None) -> Fitter:
    train = fitter.plan.tensors(part(table, "train"))
    valid = fitter.plan.tensors(part(table, "valid"))
    while not fitter.finished and (epochs is None or fitter.epoch < epochs):
        fitter.step(lambda: [train], lambda: [valid])
    return fitter


def _same(one: Fitter, two: Fitter) -> bool:
    return all(torch.equal(one.best[name], two.best[name]) for name in one.best)


@pytest.mark.parametrize("task", list(Task))
def test_a_fit_learns_every_task(task: Task) -> None:
    table = training_set(800, task)
    fitter = _run(Fitter(_plan(table, task, epochs=8)), table)
    assert fitter.best_loss < 0.7 * fitter.losses[0][0]
    assert fitter.best_loss == min(valid for _, valid in fitter.losses)


def test_equal_seeds_give_equal_weights_and_other_seeds_others() -> None:
    table = training_set(400)
    plan = _plan(table, epochs=2)
    one, two = (_run(Fitter(plan), table) for _ in range(2))
    assert _same(one, two)
    assert not _same(one, _run(Fitter(replace(plan, seed=1)), table))


def test_a_resumed_fit_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    table = training_set(400)
    plan = _plan(table, epochs=6)
    whole = _run(Fitter(plan), table)
    _run(Fitter(plan), table, epochs=3).save(tmp_path)
    resumed = Fitter(plan)
    resumed.load(tmp_path)
    assert resumed.starts == [0, 3]
    _run(resumed, table)
    assert _same(whole, resumed)
    assert resumed.losses == whole.losses


def test_patience_ends_a_fit_that_no_longer_gains() -> None:
    table = training_set(300)
    fitter = Fitter(_plan(table, epochs=50, patience=3, learning_rate=0.0))
    _run(fitter, table)
    assert (fitter.epoch, fitter.best_epoch) == (4, 1)


def test_a_wish_for_a_checkpoint_is_passed_on() -> None:
    table = training_set(300)
    fitter = Fitter(_plan(table, epochs=3))
    pair = fitter.plan.tensors(part(table, "train"))
    assert fitter.step(lambda: [pair], lambda: [pair], wish=True)
    assert not fitter.step(lambda: [pair], lambda: [pair])


def test_without_valid_rows_the_train_loss_decides() -> None:
    table = training_set(300)
    fitter = Fitter(_plan(table, epochs=2))
    pair = fitter.plan.tensors(part(table, "train"))
    fitter.step(lambda: [pair], list)
    train, valid = fitter.losses[0]
    assert train == valid == fitter.best_loss


@pytest.mark.parametrize(
    ("num_rows", "world", "expected"), [(100, 1, 16), (100, 2, 8), (3000, 1, 150), (10**6, 2, 1250)]
)
def test_batches_follow_the_number_of_rows(num_rows: int, world: int, expected: int) -> None:
    plan = _plan(training_set(200), num_rows=num_rows)
    assert plan.rows_per_step(world) == expected


def test_the_learning_rate_falls_from_full_to_a_twentieth() -> None:
    plan = _plan(training_set(200), epochs=10)
    rates = [plan.rate(epoch) for epoch in range(11)]
    assert rates == sorted(rates, reverse=True)
    assert math.isclose(rates[0], plan.learning_rate)
    assert math.isclose(rates[-1], plan.learning_rate / 20)


def test_a_set_without_test_rows_is_refused() -> None:
    table = training_set(200)
    with pytest.raises(InputError, match="test split"):
        runs.prepare(settings("/nowhere"), part(table, "train", "valid"))
