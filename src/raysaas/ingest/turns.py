"""One job at a time writes a table, or two runs over the same new rows would both commit them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from raysaas.errors import Unavailable

TURN_S = 600


class _Holder:
    """Its name in the cluster is the lock; it dies with the driver that made it, whatever happens to that."""


@contextmanager
def turn(name: str) -> Iterator[None]:
    """Hold table ``name``. Ray must be connected. Raises Unavailable when another job holds it for ``TURN_S``."""
    deadline = time.monotonic() + TURN_S
    actor = ray.remote(num_cpus=0)(_Holder).options(name=f"ingest/{name}", namespace="raysaas")
    while True:
        try:
            holder = actor.remote()
            break
        except ValueError:
            if time.monotonic() > deadline:
                raise Unavailable(f"Another job has been ingesting into {name} for {TURN_S} s; try again.") from None
            time.sleep(0.2)
    try:
        yield
    finally:
        ray.kill(holder)
