"""A ledger whose process dies at a chosen write."""

from typing import Any


class Killed(BaseException):
    pass


class Mortal:
    """The real ledger, whose process dies before or after the n-th write."""

    def __init__(self, ledger: Any, steps: int, after: bool) -> None:
        self._ledger, self._steps, self._after = ledger, steps, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._ledger, name)
        if name not in ("set_state", "add_drift", "correct_drift", "open_order"):
            return method

        def write(*args: Any) -> Any:
            self._steps -= 1
            if self._steps == 0 and not self._after:
                raise Killed
            result = method(*args)
            if self._steps == 0:
                raise Killed
            return result

        return write
