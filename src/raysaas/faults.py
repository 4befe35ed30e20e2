"""Drills: a step of a job at which the process dies on demand, as a lost machine would have it, to see what survives.

``RAYSAAS_FAULT=ingest.committed raysaas run ingest ...`` ends at that step by SIGKILL: nothing is cleaned up, nothing
is flushed. Without the variable ``reached`` does nothing. The next run has to find everything exactly once.
"""

import os
import signal

INGEST = ("discovered", "extracted", "staged", "quarantined", "committed", "cleaned")
"""Steps of ingest in their order: files found; rows of databases and events laid down as files; checked rows staged;
refused rows in quarantine; accepted rows and the offset in one commit; extracts removed and segments moved away."""

_VARIABLE = "RAYSAAS_FAULT"


def reached(job: str, step: str) -> None:
    """Die here if ``RAYSAAS_FAULT`` is ``JOB.STEP``."""
    if os.environ.get(_VARIABLE) == f"{job}.{step}":
        os.kill(os.getpid(), signal.SIGKILL)
