"""Requests of one turn share one call; a wrong one spoils nobody's answer."""

import asyncio

import pytest

from raysaas.errors import InputError
from raysaas.serving.batch import MAX_ROWS, Batcher
from raysaas.serving.protocol import PredictRequest


def request(*values):
    return PredictRequest([{"x": v} for v in values], [None] * len(values), False)


class Model:
    def __init__(self):
        self.calls = []

    def __call__(self, jobs):
        values = [[row["x"] for row in r.instances] for _, r in jobs]
        self.calls.append(sum(map(len, values)))
        if any(v is None for rows in values for v in rows):
            raise InputError("x is missing")
        return [[{"tenant": tenant, "x": v} for v in rows] for (tenant, _), rows in zip(jobs, values, strict=True)]


def together(model, jobs):
    async def main():
        batcher = Batcher(model)
        return await asyncio.gather(*(batcher.decide(*job) for job in jobs), return_exceptions=True)

    return asyncio.run(main())


def test_one_turn_is_one_call_and_answers_keep_their_order():
    model = Model()
    answers = together(model, [("a", request(1, 2)), ("b", request(3)), ("a", request(4))])
    assert [[(d["tenant"], d["x"]) for d in answer] for answer in answers] == [
        [("a", 1), ("a", 2)], [("b", 3)], [("a", 4)]]  # fmt: skip
    assert model.calls == [4]


def test_wrong_request_is_told_alone():
    answers = together(Model(), [("a", request(1)), ("b", request(None)), ("c", request(2))])
    assert [a[0]["x"] for a in (answers[0], answers[2])] == [1, 2]
    assert isinstance(answers[1], InputError)


@pytest.mark.parametrize("num", [1, 3])
def test_bug_reaches_who_waits(num):
    answers = together(lambda jobs: 1 / 0, [("a", request(1))] * num)
    assert [type(a) for a in answers] == [ZeroDivisionError] * num


def test_batches_are_bounded_and_large_requests_go_alone():
    model = Model()
    answers = together(model, [("a", request(*range(100)))] * 5 + [("b", request(*range(MAX_ROWS + 1)))])
    assert [len(a) for a in answers] == [100] * 5 + [MAX_ROWS + 1]
    assert max(c for c in model.calls if c != MAX_ROWS + 1) < MAX_ROWS + 100
    assert sum(model.calls) == 500 + MAX_ROWS + 1


def test_client_that_left_costs_nothing():
    model = Model()

    async def main():
        batcher = Batcher(model)
        gone = asyncio.ensure_future(batcher.decide("a", request(1)))
        here = asyncio.ensure_future(batcher.decide("b", request(2)))
        await asyncio.sleep(0)
        gone.cancel()
        return await here

    assert asyncio.run(main())[0]["x"] == 2
