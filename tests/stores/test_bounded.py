"""A write that hangs: nobody waits for it longer than the deadline, and what came too late is undone."""

import os
import threading
import time

import pytest

from raysaas.stores.bounded import Bounded

DEADLINE_S = 0.1


class Pipe:
    """A full pipe: a write to it waits, in the kernel, until somebody reads."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        while True:
            try:
                os.write(self.writing, b"x" * 65536)
            except BlockingIOError:
                break
        os.set_blocking(self.writing, True)

    def drain(self) -> None:
        os.read(self.reading, 1 << 20)


def test_calls_are_made_in_order_and_their_errors_are_raised():
    bounded, seen = Bounded(DEADLINE_S), []
    for i in range(100):
        bounded.call(lambda i=i: seen.append(i), lambda: seen.append("undone"))
    assert seen == list(range(100))
    with pytest.raises(ZeroDivisionError):
        bounded.call(lambda: 1 / 0, lambda: seen.append("undone"))
    assert "undone" not in seen


def test_a_write_that_hangs_costs_one_deadline_and_is_undone_when_it_ends():
    pipe, bounded, undone = Pipe(), Bounded(DEADLINE_S), threading.Event()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        bounded.call(lambda: os.write(pipe.writing, b"late"), undone.set)
    assert DEADLINE_S <= time.monotonic() - started < 1
    made = []
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(TimeoutError):
            bounded.call(lambda: made.append(1), undone.set)
    assert time.monotonic() - started < DEADLINE_S, "others are refused at once"
    assert not undone.is_set()
    pipe.drain()
    assert undone.wait(5)
    deadline = time.monotonic() + 5
    while True:
        try:
            bounded.call(lambda: made.append(2), undone.set)
            break
        except TimeoutError:
            assert time.monotonic() < deadline
    assert made == [2], "a call that was refused is never made"


def test_many_threads_each_hear_of_their_own_call():
    bounded, made, refused = Bounded(0.02), [], []

    def work(name):
        for i in range(50):
            late = i == 25 and name == 0
            try:
                bounded.call(lambda i=i: (time.sleep(0.1 if late else 0), made.append((name, i))),  # noqa: B023
                             lambda i=i: made.remove((name, i)))  # fmt: skip
            except TimeoutError:
                refused.append((name, i))
                time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)
    everything = {(name, i) for name in range(4) for i in range(50)}
    assert set(made) | set(refused) == everything
    assert (0, 25) in refused
    assert not set(made) & set(refused)
