"""The network and its loops: it learns, the serving graph says the same as torch, FedProx holds it back."""

import numpy as np
import onnxruntime
import pytest
import torch

from raysaas.models import network, steps
from raysaas.records import Task

TARGET = (1e6, 3.0)
OUTPUTS = {Task.binary: 1, Task.multiclass: 4, Task.regression: 1}


def problem(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(600, 7)).astype(np.float32))
    signal = x[:, 0] * x[:, 1] + x[:, 2]
    if task is Task.regression:
        return x, (signal - signal.mean()) / signal.std()
    if task is Task.binary:
        return x, (signal > 0).float()
    return x, torch.bucketize(signal, torch.tensor([-1.0, 0.0, 1.0]))


def fitted(task: Task, epochs: int = 25, **proximal: object) -> torch.nn.Module:
    x, y = problem(task)
    module = network.build(7, OUTPUTS[task], [32, 16], 0.1, seed=1)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    for _ in range(epochs):
        steps.fit_epoch(module, optimizer, x, y, task=task, batch_size=64, generator=generator, **proximal)
    return module


@pytest.mark.parametrize("task", list(Task))
def test_it_learns_and_the_loss_is_the_mean_over_rows(task: Task) -> None:
    x, y = problem(task)
    fresh = network.build(7, OUTPUTS[task], [32, 16], 0.1, seed=1)
    module = fitted(task)
    before, after = (steps.evaluate(net, x, y, task=task) for net in (fresh, module))
    halves = [steps.evaluate(module, x[part], y[part], task=task) for part in (slice(0, 200), slice(200, None))]
    assert after < 0.6 * before
    assert after == pytest.approx((200 * halves[0] + 400 * halves[1]) / 600, rel=1e-5)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("hidden", [[], [8], [32, 16]])
def test_the_serving_graph_agrees_with_torch(task: Task, hidden: list[int]) -> None:
    module = network.build(7, OUTPUTS[task], hidden, 0.3, seed=3)
    session = onnxruntime.InferenceSession(network.to_onnx(module, 7, task, TARGET))
    for num_rows in (0, 1, 50):
        x = problem(task)[0][:num_rows]
        (graph,) = session.run(None, {"inputs": x.numpy()})
        ours = steps.predict(module, x, task=task, target=TARGET)
        assert graph.reshape(ours.shape) == pytest.approx(ours, abs=1e-5)


def test_outputs_are_probabilities_or_values_in_the_target_units() -> None:
    multi = steps.predict(fitted(Task.multiclass, 1), problem(Task.multiclass)[0], task=Task.multiclass)
    binary = steps.predict(fitted(Task.binary, 1), problem(Task.binary)[0], task=Task.binary)
    value = steps.predict(fitted(Task.regression, 1), problem(Task.regression)[0], task=Task.regression, target=TARGET)
    assert multi.shape == (600, 4)
    assert multi.sum(axis=1) == pytest.approx(np.ones(600))
    assert ((binary > 0) & (binary < 1)).all()
    assert abs(value.mean() - TARGET[0]) < 10


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = network.build(4, 1, [8], 0.0, seed=9), network.build(4, 1, [8], 0.0, seed=9)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_an_epoch_is_repeatable_and_visits_every_row_once() -> None:
    first, second = fitted(Task.regression, 2), fitted(Task.regression, 2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    x, y = problem(Task.regression)
    module = network.build(7, 1, [], 0.0, seed=0)
    frozen = torch.optim.SGD(module.parameters(), lr=0.0)
    # 600 is no multiple of 64: a mean over batches instead of rows would show.
    loss = steps.fit_epoch(module, frozen, x, y, task=Task.regression, batch_size=64)
    assert loss == pytest.approx(steps.evaluate(module, x, y, task=Task.regression), rel=1e-5)


def test_the_proximal_term_keeps_weights_near_the_anchor() -> None:
    anchor = [p.detach().clone() for p in network.build(7, 1, [32, 16], 0.1, seed=1).parameters()]

    def distance(module: torch.nn.Module) -> float:
        return (
            sum(float((p.detach() - a).square().sum()) for p, a in zip(module.parameters(), anchor, strict=True)) ** 0.5
        )

    free, plain, held = (fitted(Task.binary, 5, anchor=anchor, mu=mu) for mu in (0.0, 0.001, 10.0))
    assert distance(held) < 0.5 * distance(free)
    assert distance(held) < distance(plain)


def test_no_rows_cost_nothing() -> None:
    module = network.build(7, 4, [8], 0.0)
    empty = torch.zeros(0, 7)
    assert steps.predict(module, empty, task=Task.multiclass).shape == (0, 4)
    assert np.isnan(steps.evaluate(module, empty, torch.zeros(0, dtype=torch.int64), task=Task.multiclass))
