"""A network in torch on the GPU of a replica: full float32, one copy there and one back for all rows of a call.

Nothing else that serves imports torch. What the device refuses (no memory left, a lost card) is answered by the ONNX
graph on the CPU from then on, and said in the log.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysaas.models.encode import Encoder
from raysaas.models.fields import Columns
from raysaas.models.scorers import Floats, Scorer
from raysaas.records import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

logger = logging.getLogger(__name__)


def claim(share: float) -> str | None:
    """Keep this process to ``share`` (up to 1) of its GPU's memory, and to float32 without TF32.

    Returns why there is no GPU to use, None when there is one. Ray shares a GPU by its own count only: the limit is
    what keeps replicas on one card apart.
    """
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU in this process"
    torch.set_float32_matmul_precision("highest")
    torch.cuda.set_per_process_memory_fraction(share)
    return None


class TorchScorer:
    """A network's ``weights`` (safetensors) on ``device``; ``spare`` makes the scorer for when that does not work.

    A row's last bits may depend on how many rows it was answered with: a GPU's kernels are chosen by shape.
    """

    def __init__(
        self, weights: bytes, encoder: Encoder, task: Task, target: tuple[float, float], device: str,
        spare: Callable[[], Scorer],
    ) -> None:  # fmt: skip
        self._encoder, self._task, self._target = encoder, task, target
        self._device, self._make_spare = device, spare
        self._network: nn.Sequential | None = None
        self._spare: Scorer | None = None
        try:
            self._network = _network(weights).to(device)
        except RuntimeError as error:
            self._give_up(error)

    @property
    def backend(self) -> str:
        """``torch/cuda``, or that of the spare."""
        return f"torch/{self._device}" if self._spare is None else self._spare.backend

    def __call__(self, columns: Columns) -> Floats:
        """Outputs in float64, [n] or [n, k]."""
        network = self._network
        if network is not None:
            inputs = self._encoder.dense(columns)
            try:
                return self._scaled(self._outputs(network, inputs))
            except RuntimeError as error:  # torch's only type for all that a device can say
                self._give_up(error)
        assert self._spare is not None
        return self._spare(columns)

    def _outputs(self, network: "nn.Sequential", inputs: NDArray[np.float32]) -> Floats:
        import torch

        with torch.inference_mode():
            outputs: Tensor = network(torch.from_numpy(inputs).to(self._device))
            if self._task is Task.binary:
                outputs = outputs.sigmoid()
            elif self._task is Task.multiclass:
                outputs = outputs.softmax(dim=-1)
            return np.asarray(outputs.cpu().numpy(), dtype=np.float64)

    def _scaled(self, outputs: Floats) -> Floats:
        if self._task is Task.multiclass:
            return outputs
        mean, std = self._target
        return outputs[:, 0] * std + mean if self._task is Task.regression else outputs[:, 0]

    def _give_up(self, error: RuntimeError) -> None:
        said = str(error).partition("\n")[0]
        self._spare = self._spare or self._make_spare()
        self._network = None
        logger.warning("%s does not work, %s answers from now on: %s", self._device, self._spare.backend, said)


def _network(weights: bytes) -> "nn.Sequential":
    from safetensors.torch import load

    from raysaas.models.network import rebuild

    tensors: dict[str, Any] = load(weights)
    return rebuild(tensors)
