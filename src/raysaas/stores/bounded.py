"""Calls that may hang, such as a write to a disk that went away, with a deadline for whoever waits.

A write cannot be interrupted while the kernel waits for a disk, so it is made in a thread of its own. Handing it over
and waiting costs about 13 microseconds.
"""

import threading
from collections.abc import Callable

Act = Callable[[], None]


class Bounded:
    """Makes calls one at a time; safe to use from several threads.

    A caller waits ``deadline_s`` at most. A call that is late is undone when it ends; until then others are refused at
    once, so nobody else waits for it.
    """

    def __init__(self, deadline_s: float, name: str = "bounded") -> None:
        self.deadline_s, self._name = deadline_s, name
        self._turn, self._go, self._done = threading.Lock(), threading.Lock(), threading.Lock()
        self._go.acquire()
        self._done.acquire()
        self._hung, self._started = False, False
        self._claim = threading.Lock()  # whoever takes it decides: was the present call in time, or is it undone
        self._act: Act = _nothing
        self._undo: Act = _nothing
        self._error: BaseException | None = None

    def call(self, act: Act, undo: Act) -> None:
        """Make ``act``; what it raises is raised here.

        Raises TimeoutError when it was not done in time, or when an earlier one still hangs: ``undo`` is then called
        once ``act`` returns, or ``act`` was never called.
        """
        with self._turn:
            if self._hung:
                raise TimeoutError
            self._start()
            self._act, self._undo, self._error, self._claim = act, undo, None, threading.Lock()
            self._go.release()
            if not self._done.acquire(timeout=self.deadline_s):
                self._hung = True  # before the claim, so that the thread can take it back after
                if self._claim.acquire(blocking=False):
                    raise TimeoutError
                self._hung = False
                self._done.acquire()
            if self._error is not None:
                raise self._error

    def _start(self) -> None:
        if not self._started:
            self._started = True
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while True:
            self._go.acquire()
            try:
                self._act()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                self._error = error
            if self._claim.acquire(blocking=False):
                self._done.release()
                continue
            if self._error is None:
                self._undo()
            self._hung = False


def _nothing() -> None:
    pass
