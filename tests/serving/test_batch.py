"""Requests of one turn share one call; a wrong one spoils nobody's answer."""

import asyncio

import pytest

from raysaas.errors import DeadlineExceeded, InputError
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


class Watch:
    """A clock that a model moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_what_cannot_be_done_in_time_is_refused_and_costs_nothing():
    watch, model = Watch(), Model()

    def slow(jobs):
        watch.now += 1.0
        return model(jobs)

    async def main():
        batcher = Batcher(slow, watch)
        told = []
        # Rows beyond one batch wait for the batch before them: by then it is too late for some.
        batcher.submit(("a", request(*range(256))), told.append)
        batcher.submit(("b", request(1)), told.append, deadline=0.5)
        batcher.submit(("c", request(2)), told.append, deadline=5.0)
        assert not told
        await asyncio.sleep(0)
        return told, batcher

    (first, late, last), batcher = asyncio.run(main())
    assert len(first) == 256
    assert isinstance(late, DeadlineExceeded)
    assert last == [{"tenant": "c", "x": 2}]
    assert model.calls == [256, 1]
    assert 0.1 < batcher.turn_s < 2.0


def test_a_slow_turn_refuses_short_deadlines_early_but_not_for_ever():
    watch, model = Watch(), Model()

    async def main():
        batcher = Batcher(model, watch)
        batcher.turn_s = 1.0
        told = []
        for _ in range(30):
            batcher.submit(("a", request(1)), told.append, deadline=watch.now + 0.2)
        batcher.submit(("b", request(1)), told.append)
        await asyncio.sleep(0)
        return told

    told = asyncio.run(main())
    refused = [isinstance(answer, DeadlineExceeded) for answer in told]
    assert refused[:10] == [True] * 10
    assert refused[-10:] == [False] * 10
    assert model.calls == [refused.count(False)]
