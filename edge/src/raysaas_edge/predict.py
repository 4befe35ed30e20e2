"""Local predictions: the same bundle, encoder and answers as a serving replica, without a network."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from raysaas.models import bundle
from raysaas.records import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalDecision:
    """One answer made at a site; ``version`` is the bundle's digest. Kept in the site's buffer."""

    id: str
    inputs: Mapping[str, Any]
    score: float
    label: str | None
    version: str
    time: datetime


class Predictor:
    """A verified bundle that answers for rows of this site."""

    def __init__(self, path: Path, digest: str | None = None) -> None:
        self.bundle = bundle.load(path, digest)

    def predict(
        self, instances: Sequence[Mapping[str, Any]], *, extra: Literal["refuse", "ignore"] = "refuse"
    ) -> list[LocalDecision]:
        """Decisions in the order of ``instances``; InputError names row and field of a bad value."""
        if not instances:
            return []
        columns = self.bundle.encoder.rows(instances, extra)
        answer, now = self.bundle.predict(columns), datetime.now(UTC)
        labels: Sequence[str | None] = answer.label or [None] * len(instances)
        if self.bundle.task is Task.multiclass and answer.scores is not None:
            scores = answer.scores.max(axis=1)
        else:
            scores = answer.score
        return [
            LocalDecision(
                id=uuid.uuid4().hex,
                inputs=dict(row),
                score=float(score),
                label=label,
                version=self.bundle.digest,
                time=now,
            )
            for row, score, label in zip(instances, scores, labels, strict=True)
        ]
