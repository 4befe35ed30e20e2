"""Whether a score that a GPU computed and the same score from the CPU are apart by float32's rounding alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from raysaas.models.scorers import Prediction

# Of a probability, or of a value in units of its target's deviation. ONNX Runtime and torch, both on the CPU, were
# up to 1.4e-5 apart over 180 random networks with heavy-tailed inputs.
TOLERANCE = 5e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How far ``apart`` two scores are, how far rounding may take them, and whether it explains score and label."""

    apart: float
    allowed: float
    explains: bool


def rounding(again: Prediction, score: float, label: str | None, target: Sequence[float]) -> Rounding:
    """Compare one row's answer computed ``again`` with the recorded ``score`` and ``label``.

    ``target`` is the (mean, standard deviation) of the model's target. Another label is explained where the recorded
    score is its own and rounding could have made it the first.
    """
    (mean, std), mine = target, float(again.score[0])
    if again.label is None:
        return _rounding(abs(mine - score), TOLERANCE * (std + abs(mine - mean)), label is None)
    if again.scores is None:
        return _rounding(abs(mine - score), TOLERANCE, again.labels[score >= 0.5] == label)
    of_label = dict(zip(again.labels, again.scores[0].tolist(), strict=True)).get(str(label), -1.0)
    return _rounding(abs(of_label - score), TOLERANCE, mine - score <= TOLERANCE)


def _rounding(apart: float, allowed: float, consistent: bool) -> Rounding:
    return Rounding(apart=apart, allowed=allowed, explains=consistent and apart <= allowed)
