"""From encoded columns to predictions on the CPU: ONNX Runtime for networks, LightGBM for trees, one thread each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from raysaas.models.encode import Encoder
from raysaas.models.fields import Columns
from raysaas.records import Task

Floats = NDArray[np.float64]

CHUNK_ROWS = 65_536
ON_CPU = frozenset({"onnxruntime/cpu", "lightgbm/cpu"})  # backends that give a row the same bits in any batch, anywhere


@dataclass(frozen=True, slots=True)
class Prediction:
    """Answers for n rows.

    ``score`` [n]: probability of the positive label, of the chosen label (multiclass), or the value. ``label``: chosen
    labels, None for regression. ``scores`` [n, k]: probability of each label (multiclass only). ``labels``: the model's
    labels, [negative, positive] for binary.
    """

    score: Floats
    label: list[str] | None = None
    scores: Floats | None = None
    labels: tuple[str, ...] = ()


def decide(task: Task, labels: Sequence[str], outputs: Floats) -> Prediction:
    """Labels for model outputs: probabilities [n] (binary) or [n, k] (multiclass), or values [n]."""
    names = tuple(labels)
    if task is Task.regression:
        return Prediction(score=outputs)
    if task is Task.binary:
        return Prediction(score=outputs, label=[names[over] for over in (outputs >= 0.5).tolist()], labels=names)
    chosen = outputs.argmax(axis=1)
    score = outputs[np.arange(len(outputs)), chosen]
    return Prediction(score=score, label=[names[i] for i in chosen.tolist()], scores=outputs, labels=names)


class Scorer(Protocol):
    """A loaded model: columns to outputs as ``decide`` takes them. Safe to call from several threads.

    ``backend`` is the engine and where it runs, such as ``onnxruntime/cpu``.
    """

    @property
    def backend(self) -> str: ...

    def __call__(self, columns: Columns) -> Floats: ...


class GraphScorer:
    """A network's ONNX graph in ONNX Runtime, sequential, one thread."""

    backend = "onnxruntime/cpu"

    def __init__(self, graph: bytes, encoder: Encoder, task: Task) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._encoder = encoder
        self._flat = task is not Task.multiclass

    def __call__(self, columns: Columns) -> Floats:
        """Outputs in float64, [n] or [n, k]."""
        (outputs,) = self._session.run(None, {"inputs": self._encoder.dense(columns)})
        return np.asarray(outputs[:, 0] if self._flat else outputs, dtype=np.float64)


class TreeScorer:
    """A LightGBM model from its text format, one thread; ``target`` is the (mean, standard deviation) of its target."""

    backend = "lightgbm/cpu"

    def __init__(self, text: str, encoder: Encoder, task: Task, target: tuple[float, float]) -> None:
        import lightgbm

        self._booster: Any = lightgbm.Booster(model_str=text)
        self._encoder = encoder
        self._mean, self._std = target if task is Task.regression else (0.0, 1.0)

    def __call__(self, columns: Columns) -> Floats:
        """Outputs in float64, [n] or [n, k]."""
        matrix = self._encoder.matrix(columns)
        outputs = np.asarray(self._booster.predict(matrix, num_threads=1), dtype=np.float64)
        return outputs * self._std + self._mean


def score(scorer: Scorer, columns: Columns, num_rows: int) -> Floats:
    """Outputs of any number of rows with flat memory."""
    if num_rows <= CHUNK_ROWS:
        return scorer(columns)
    starts = range(0, num_rows, CHUNK_ROWS)
    parts = [scorer({name: column[start : start + CHUNK_ROWS] for name, column in columns.items()}) for start in starts]
    return np.concatenate(parts)
