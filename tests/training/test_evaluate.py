"""Metrics against scikit-learn, a baseline on every shape of data, and a gate that lets no worse model through."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.dummy import DummyClassifier

from raysaas.models.encode import Encoder
from raysaas.models.scorers import decide
from raysaas.records import Task
from raysaas.settings import ReleasePolicy
from raysaas.training.evaluate import baseline, gate, main_metric, metrics

RNG = np.random.default_rng(0)
SCORES = st.floats(0.3, 0.99)
POLICY = ReleasePolicy(min_gain=0.0, baseline_tolerance=0.002)


def test_binary_metrics_are_those_of_scikit_learn() -> None:
    score = RNG.random(500)
    truth = np.where(RNG.random(500) < score, "yes", "no").astype(object)
    found = metrics(Task.binary, truth, decide(Task.binary, ["no", "yes"], score))
    positive = truth == "yes"
    assert found["auc"] == pytest.approx(sk.roc_auc_score(positive, score))
    assert found["average_precision"] == pytest.approx(sk.average_precision_score(positive, score))
    assert found["log_loss"] == pytest.approx(sk.log_loss(positive, score))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(positive, score))
    assert found["accuracy"] == pytest.approx(np.mean((score >= 0.5) == positive))


def test_multiclass_metrics_are_those_of_scikit_learn_also_with_a_label_training_never_saw() -> None:
    labels = ["a", "b", "c"]
    outputs = RNG.dirichlet([1, 1, 1], 300)
    truth = RNG.choice(labels, 300)
    prediction = decide(Task.multiclass, labels, outputs)
    found = metrics(Task.multiclass, truth, prediction)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, prediction.label))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, prediction.label, average="macro"))
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, outputs, labels=labels))
    strange = metrics(Task.multiclass, np.where(np.arange(300) < 3, "new", truth), prediction)
    assert math.isfinite(strange["log_loss"])
    assert strange["log_loss"] > found["log_loss"]


def test_regression_metrics_are_those_of_scikit_learn() -> None:
    truth = RNG.normal(size=300)
    value = truth + RNG.normal(size=300)
    found = metrics(Task.regression, truth, decide(Task.regression, [], value))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(truth, value))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(truth, value))
    assert found["r2"] == pytest.approx(sk.r2_score(truth, value))


@pytest.mark.parametrize("task", list(Task))
def test_the_standard_error_is_the_spread_over_repeated_samples(task: Task) -> None:
    name = main_metric(task)[0]

    def measure() -> dict[str, float]:
        signal = RNG.normal(size=400)
        noisy = signal + RNG.normal(size=400)
        if task is Task.regression:
            return metrics(task, noisy, decide(task, [], signal))
        truth = (noisy > 0).astype(int).astype(str)
        chance = 1 / (1 + np.exp(-2 * signal))
        outputs = chance if task is Task.binary else np.stack([1 - chance, chance], axis=1)
        return metrics(task, truth, decide(task, ["0", "1"], outputs))

    runs = [measure() for _ in range(200)]
    spread = np.std([run[name] for run in runs])
    assert np.mean([run[f"{name}_se"] for run in runs]) == pytest.approx(spread, rel=0.25)


def test_one_class_or_no_rows_give_nan_not_a_crash() -> None:
    one_class = metrics(Task.binary, np.array(["no", "no"]), decide(Task.binary, ["no", "yes"], np.array([0.1, 0.6])))
    assert math.isnan(one_class["auc"])
    assert one_class["accuracy"] == 0.5
    for task, outputs in (
        (Task.binary, np.zeros(0)),
        (Task.regression, np.zeros(0)),
        (Task.multiclass, np.zeros((0, 2))),
    ):
        none = metrics(task, np.array([]), decide(task, ["a", "b"], outputs))
        assert all(math.isnan(value) for value in none.values())


def split(data: object, task: Task) -> tuple:
    order = RNG.permutation(len(data.target))
    test, train = order[: len(order) // 4], order[len(order) // 4 :]
    y = data.target.astype(float) if task is Task.regression else data.target.astype(str)
    columns = {f"f{i}": column.astype(float) for i, column in enumerate(data.data.T)}
    parts = [{name: column[rows] for name, column in columns.items()} for rows in (train, test)]
    encoder = Encoder.fit(parts[0], dict.fromkeys(columns, "number"))
    return encoder, parts[0], y[train], parts[1], y[test]


@pytest.mark.parametrize(
    ("load", "task", "at_least"),
    [
        (load_breast_cancer, Task.binary, 0.97),
        (load_iris, Task.multiclass, 0.85),
        (load_diabetes, Task.regression, -65),
    ],
)
def test_the_baseline_reaches_what_a_linear_model_can(load: object, task: Task, at_least: float) -> None:
    data = load()
    labels = [] if task is Task.regression else sorted({str(target) for target in data.target})
    name, higher = main_metric(task)
    found = baseline(task, labels, *split(data, task))[name]
    assert (found if higher else -found) >= at_least


def test_the_baseline_takes_rare_labels_one_class_and_text() -> None:
    columns = {"c": RNG.choice(np.array(["p", "q", None], dtype=object), 90)}
    encoder = Encoder.fit(columns, {"c": "category"})
    y = np.array(["a"] * 60 + ["b"] * 30, dtype=object)
    # "c" is a known label of which the training part holds none.
    found = baseline(Task.multiclass, ["a", "b", "c"], encoder, columns, y, columns, np.array(["c"] + ["a"] * 89))
    assert 0 < found["accuracy"] < 1
    one = baseline(Task.binary, ["a", "b"], encoder, columns, np.array(["a"] * 90), columns, y)
    assert one["auc"] == 0.5
    assert one["accuracy"] == pytest.approx(60 / 90)


def test_the_baseline_is_the_same_in_chunks_and_samples_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(size=3000)
    y = np.where(x + RNG.normal(size=3000) > 0, "yes", "no")
    encoder = Encoder.fit({"x": x}, {"x": "number"})
    full = baseline(Task.binary, ["no", "yes"], encoder, {"x": x}, y, {"x": x}, y)
    monkeypatch.setattr("raysaas.training.linear.MAX_ROWS", 500)
    sampled = baseline(Task.binary, ["no", "yes"], encoder, {"x": x}, y, {"x": x}, y)
    assert sampled["auc"] == pytest.approx(full["auc"], abs=0.01)


def test_the_first_good_model_is_released_and_says_why() -> None:
    verdict = gate(Task.binary, {"auc": 0.85}, {"auc": 0.84}, None, [], POLICY)
    assert verdict.released
    assert verdict.reason == (
        "Released: auc 0.8500 against the baseline's 0.8400 on the held-back rows; there is no champion yet."
    )


@pytest.mark.parametrize(
    ("candidate", "base", "champion", "released", "said"),
    [
        (0.839, 0.840, None, True, "a tie: within 0.002"),
        (0.837, 0.840, None, False, "does not beat the baseline"),
        (0.850, 0.840, 0.849, True, "and the champion's 0.8490"),
        (0.850, 0.840, 0.850, False, "does not beat the champion"),
        (0.850, 0.840, 0.851, False, "does not beat the champion"),
        (math.nan, 0.840, None, False, "does not beat the baseline"),
        (0.850, math.nan, None, False, "does not beat the baseline"),
        (0.850, 0.840, math.nan, False, "does not beat the champion"),
    ],
)
def test_the_gate_at_its_edges(
    candidate: float, base: float, champion: float | None, released: bool, said: str
) -> None:
    best = None if champion is None else {"auc": champion}
    verdict = gate(Task.binary, {"auc": candidate}, {"auc": base}, best, [], POLICY)
    assert verdict.released is released
    assert said in verdict.reason


def test_a_leak_is_refused_however_good_the_model() -> None:
    verdict = gate(Task.binary, {"auc": 1.0}, {"auc": 0.5}, None, ["refund_total"], POLICY)
    assert not verdict.released
    assert "refund_total" in verdict.reason
    assert "use_case.allow_leaks" in verdict.reason


def test_lower_is_better_for_regression_and_gains_are_relative() -> None:
    better = gate(Task.regression, {"rmse": 9e5}, {"rmse": 1e6}, {"rmse": 9.1e5}, [], POLICY)
    worse = gate(Task.regression, {"rmse": 9.2e5}, {"rmse": 1e6}, {"rmse": 9.1e5}, [], POLICY)
    tie = gate(Task.regression, {"rmse": 1.001e6}, {"rmse": 1e6}, None, [], POLICY)
    assert (better.released, worse.released, tie.released) == (True, False, True)


def test_few_test_rows_widen_the_tie_but_not_for_the_champion() -> None:
    near = {"auc": 0.985, "auc_se": 0.02}
    assert gate(Task.binary, near, {"auc": 0.99, "auc_se": 0.01}, None, [], POLICY).released
    assert not gate(Task.binary, {"auc": 0.97, "auc_se": 0.02}, {"auc": 0.99}, None, [], POLICY).released
    assert not gate(Task.binary, near, {"auc": 0.97}, {"auc": 0.986}, [], POLICY).released


def test_a_label_that_cannot_be_learnt_releases_nothing_although_it_ties_the_baseline() -> None:
    bad = {"auc": 0.4013, "auc_se": 0.03, "chance": 0.5, "chance_se": 0.03}
    for itself in (True, False):
        verdict = gate(Task.binary, bad, bad, None, [], POLICY, is_baseline=itself)
        assert not verdict.released
        assert verdict.reason == "Refused: auc 0.4013 on the held-back rows is no better than guessing."
    lucky = gate(Task.binary, {**bad, "auc": 0.52}, bad, None, [], POLICY)
    assert lucky.reason == "Refused: auc 0.5200 on the held-back rows is no better than guessing, give or take 0.0300."
    assert not gate(Task.binary, bad, bad, {"auc": 0.3}, [], POLICY).released, "a worse champion is no excuse"


@pytest.mark.parametrize(
    ("load", "task", "share"),
    [(load_breast_cancer, Task.binary, 0.5), (load_iris, Task.multiclass, 0.3), (load_diabetes, Task.regression, 0.3)],
)
def test_tiny_real_sets_pass_and_the_same_with_shuffled_labels_do_not(load: object, task: Task, share: float) -> None:
    def released(*, shuffled: bool) -> bool:
        data = load()
        rows = RNG.permutation(len(data.target))[: 60 if task is not Task.regression else 300]
        data.data, data.target = data.data[rows], data.target[RNG.permutation(rows) if shuffled else rows]
        labels = [] if task is Task.regression else sorted({str(target) for target in data.target})
        found = baseline(task, labels, *split(data, task))
        return gate(task, found, found, None, [], POLICY, is_baseline=True).released

    assert np.mean([released(shuffled=False) for _ in range(20)]) >= 0.9
    assert np.mean([released(shuffled=True) for _ in range(20)]) <= share


def test_chance_is_what_a_constant_prediction_reaches() -> None:
    truth = RNG.choice(["a", "b", "c"], 300, p=[0.6, 0.3, 0.1])
    dummy = DummyClassifier().fit(np.zeros((300, 1)), truth)
    constant = metrics(
        Task.multiclass, truth, decide(Task.multiclass, list("abc"), dummy.predict_proba(np.zeros((300, 1))))
    )
    assert constant["chance"] == pytest.approx(constant["accuracy"])
    assert constant["chance_log_loss"] == pytest.approx(constant["log_loss"])
    assert (constant["chance_se"], constant["chance_log_loss_se"]) == pytest.approx((0, 0))
    assert not gate(Task.multiclass, constant, constant, None, [], POLICY).released
    values = RNG.lognormal(size=300)
    mean = metrics(Task.regression, values, decide(Task.regression, [], np.full(300, values.mean())))
    assert mean["chance"] == pytest.approx(mean["rmse"])
    refused = gate(Task.regression, mean, mean, None, [], POLICY)
    assert f"is no better than guessing the mean ({mean['rmse']:.4f})." in refused.reason


def test_where_one_label_is_most_rows_probabilities_count() -> None:
    """Fraud types at 4 %: the commonest label is always the best guess, and still the scores are worth much."""
    risk = np.where(RNG.random(2000) < 0.1, 0.4, 0.001)
    truth = np.where(RNG.random(2000) < risk, RNG.choice(["card", "fake"], 2000), "fine")
    outputs = np.stack([risk / 2, risk / 2, 1 - risk], axis=1)
    found = metrics(Task.multiclass, truth, decide(Task.multiclass, ["card", "fake", "fine"], outputs))
    assert found["accuracy"] == found["chance"]
    assert gate(Task.multiclass, found, found, None, [], POLICY).released
    blunt = metrics(Task.multiclass, truth, decide(Task.multiclass, ["card", "fake", "fine"], RNG.permutation(outputs)))
    refused = gate(Task.multiclass, blunt, blunt, None, [], POLICY)
    assert "no better than guessing the commonest label" in refused.reason


def test_good_labels_count_where_an_unseen_one_ruins_the_log_loss() -> None:
    truth = np.array(["a", "b"] * 45 + ["new"] * 10)
    sure = np.where(truth[:, None] == np.array(["a", "b"]), 1.0, 0.0)
    found = metrics(Task.multiclass, truth, decide(Task.multiclass, ["a", "b"], sure))
    assert found["log_loss"] > found["chance_log_loss"]
    assert gate(Task.multiclass, found, found, None, [], POLICY).released


def test_the_baseline_is_not_compared_with_itself() -> None:
    found = {"auc": 0.8473, "auc_se": 0.01}
    first = gate(Task.binary, found, found, None, [], POLICY, is_baseline=True)
    assert first.released
    assert first.reason == (
        "Released: auc 0.8473 on the held-back rows; it is the baseline, and there is no champion yet."
    )
    later = gate(Task.binary, found, found, {"auc": 0.84}, [], POLICY, is_baseline=True)
    assert later.reason == (
        "Released: auc 0.8473 against the champion's 0.8400 on the held-back rows; it is the baseline."
    )
    worse = gate(Task.binary, found, found, {"auc": 0.85}, [], POLICY, is_baseline=True)
    assert worse.reason == (
        "Refused: auc 0.8473 against the champion's 0.8500 on the held-back rows does not beat the champion."
    )
    assert not gate(Task.binary, {"auc": math.nan}, found, None, [], POLICY, is_baseline=True).released


@given(SCORES, SCORES, SCORES, st.floats(0, 0.1), st.floats(0, 0.05))
def test_what_is_released_beats_the_champion_and_no_worse_model_passes_where_a_better_fails(
    candidate: float, base: float, champion: float, min_gain: float, tolerance: float
) -> None:
    policy = ReleasePolicy(min_gain=min_gain, baseline_tolerance=tolerance)
    verdict = gate(Task.multiclass, {"accuracy": candidate}, {"accuracy": base}, {"accuracy": champion}, [], policy)
    better = gate(
        Task.multiclass, {"accuracy": candidate + 0.01}, {"accuracy": base}, {"accuracy": champion}, [], policy
    )
    assert verdict.released == (candidate - base >= -tolerance and candidate - champion > min_gain)
    assume(verdict.released)
    assert better.released
