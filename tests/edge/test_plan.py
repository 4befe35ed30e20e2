"""What the cluster asks of a site."""

import json

import pytest

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas_edge.plan import Plan

PLAN = Plan(
    task=Task.multiclass, encoder={"fields": []}, labels=("a", "b", "c"), target=(1.5, 2.5), hidden=(8,), mu=0.1
)


def test_a_plan_survives_its_journey() -> None:
    again = Plan.from_json(PLAN.to_json())
    assert again == PLAN
    assert again.num_outputs == 3


@pytest.mark.parametrize("text", ["{", "{}", "[]", json.dumps(json.loads(PLAN.to_json()) | {"novelty": 1})])
def test_a_plan_of_another_release_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="same release"):
        Plan.from_json(text)
