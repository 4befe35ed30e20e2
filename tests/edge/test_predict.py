"""Local predictions."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from raysaas.errors import CorruptBundle, InputError
from raysaas.models import bundle
from raysaas.records import Task
from raysaas_edge.predict import Predictor


def test_answers_are_those_of_the_bundle_in_order(toy_bundle: Path) -> None:
    rows = [{"usage": 0.1, "plan": "pro"}, {"usage": None, "plan": "basic"}, {"plan": None}]
    decisions = Predictor(toy_bundle).predict(rows)
    loaded = bundle.load(toy_bundle)
    expected = loaded.predict(loaded.encoder.rows(rows))
    assert [d.score for d in decisions] == pytest.approx(expected.score.tolist())
    assert [d.label for d in decisions] == expected.label
    assert len({d.id for d in decisions}) == 3
    assert {d.version for d in decisions} == {loaded.digest}


@pytest.mark.parametrize("task", [Task.multiclass, Task.regression])
def test_other_tasks_score_the_chosen_label_or_the_value(
    tmp_path: Path, make_bundle: Callable[..., str], task: Task
) -> None:
    make_bundle(tmp_path / "b", task=task)
    predictor = Predictor(tmp_path / "b")
    (decision,) = predictor.predict([{"usage": 0.3, "plan": "pro"}])
    answer = predictor.bundle.predict(predictor.bundle.encoder.rows([{"usage": 0.3, "plan": "pro"}]))
    if task is Task.regression:
        assert decision.label is None
        assert decision.score == pytest.approx(float(answer.score[0]))
    else:
        assert answer.scores is not None
        assert decision.label == ["a", "b", "c"][int(np.argmax(answer.scores[0]))]
        assert decision.score == pytest.approx(float(answer.scores[0].max()))


def test_a_bad_value_names_row_and_field(toy_bundle: Path) -> None:
    with pytest.raises(InputError, match=r"1.*usage"):
        Predictor(toy_bundle).predict([{"usage": 1.0}, {"usage": "many"}])


def test_another_digest_than_the_pinned_one_is_refused(toy_bundle: Path) -> None:
    with pytest.raises(CorruptBundle):
        Predictor(toy_bundle, "0" * 64)


def test_no_rows_no_decisions(toy_bundle: Path) -> None:
    assert Predictor(toy_bundle).predict([]) == []
