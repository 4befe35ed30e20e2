"""Puts candidates before the gate: leaks are looked for once, the champion is measured on the same held-back rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from raysaas.models import bundle
from raysaas.models.fields import Columns
from raysaas.records import Family
from raysaas.settings import Settings
from raysaas.training import evaluate
from raysaas.training.arrays import Target, columns, kinds, part
from raysaas.training.evaluate import Fitted, Gate, Leak
from raysaas.training.runs import truth


class Judge:
    """Judges the candidates of one training set.

    ``leaks`` are features that predict the label almost perfectly alone; those not in ``use_case.allow_leaks`` keep
    every candidate from being released.
    """

    def __init__(self, settings: Settings, table: pa.Table) -> None:
        self._settings, self._task = settings, settings.use_case.task
        self._target = Target.fit(table, self._task, settings.use_case.examples.positive)
        self._test = part(table, "test")
        train = part(table, "train")
        self.leaks: list[Leak] = evaluate.leaks(columns(train), kinds(table), truth(train, self._target), self._task)

    @property
    def warnings(self) -> list[str]:
        """One sentence per leaking feature, the allowed ones included."""
        return [
            f"{leak.feature} alone predicts the label ({leak.score:.4f}): is it known in time?" for leak in self.leaks
        ]

    def verdict(self, candidate: Fitted, champion: Path | None) -> Gate:
        """The gate's verdict on ``candidate``; ``champion`` is the bundle that answers now."""
        refused = [leak.feature for leak in self.leaks if leak.feature not in self._settings.use_case.allow_leaks]
        against = self.measure(champion) if champion else None
        return evaluate.gate(
            self._task, candidate.metrics, candidate.baseline, against, refused, self._settings.release,
            is_baseline=candidate.family is Family.linear,
        )  # fmt: skip

    def measure(self, path: Path) -> dict[str, float]:
        """Metrics of an older bundle on these held-back rows; features that are gone count as missing."""
        model = bundle.load(path)
        prediction = model.predict(_completed(model, columns(self._test), self._test.num_rows))
        return evaluate.metrics(self._task, truth(self._test, self._target), prediction)


def _completed(model: bundle.Bundle, given: Columns, num_rows: int) -> dict[str, np.ndarray]:
    blank = {
        field.name: np.full(num_rows, None, object) if field.kind == "category" else np.full(num_rows, np.nan)
        for field in model.encoder.fields
    }
    return blank | {name: values for name, values in given.items() if name in blank}
