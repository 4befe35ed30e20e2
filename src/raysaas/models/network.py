"""The network: a small multi-layer perceptron over ``Encoder.dense``, and its serving graph."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raysaas.records import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

OPSET = 17
IR_VERSION = 8


def build(
    width: int, outputs: int, hidden: Sequence[int], dropout: float, *, seed: int | None = None
) -> "nn.Sequential":
    """A perceptron ``width`` -> ``hidden`` ... -> ``outputs`` logits (or standardised values) with ReLU and dropout.

    With ``seed`` the weights are the same in every process and torch's global generator is left alone.
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip([width, *hidden], hidden, strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear([width, *hidden][-1], outputs))


def rebuild(tensors: "Mapping[str, Tensor]") -> "nn.Sequential":
    """The network that ``build`` made, for prediction, from its ``state_dict``; its shape is that of the tensors.

    Raises RuntimeError, as torch does, for tensors of another kind of network.
    """
    import torch

    order = sorted((name for name in tensors if name.endswith(".weight")), key=lambda name: int(name.partition(".")[0]))
    shapes = [tensors[name].shape for name in order]
    if not shapes:
        raise RuntimeError("There are no weights of a network in these tensors.")
    with torch.device("meta"):
        module = build(shapes[0][1], shapes[-1][0], [outputs for outputs, _ in shapes[:-1]], 0.0)
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def to_onnx(module: "nn.Module", width: int, task: Task, target: tuple[float, float] = (0.0, 1.0)) -> bytes:
    """Serving graph of a network made by ``build``: ``inputs`` float32 [n, width] -> ``outputs``.

    ``outputs`` are the probability of the positive label [n, 1], the probability of each label [n, k], or the value in
    the target's own units [n, 1] in float64; ``target`` is its (mean, standard deviation). n is free.

    The graph is written node by node: for this one shape that is exact and takes milliseconds, where
    ``torch.onnx.export`` takes seconds and prints to stdout.
    """
    from onnx import TensorProto, checker, helper, numpy_helper
    from torch import nn

    nodes, constants, current = [], [], "inputs"
    for i, layer in enumerate(module.children()):
        if isinstance(layer, nn.Linear):
            for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
                values = tensor.detach().cpu().numpy().astype(np.float32)
                constants.append(numpy_helper.from_array(values, f"{i}.{name}"))
            nodes.append(helper.make_node("Gemm", [current, f"{i}.weight", f"{i}.bias"], [f"h{i}"], transB=1))
            current = f"h{i}"
        elif isinstance(layer, nn.ReLU):
            nodes.append(helper.make_node("Relu", [current], [f"h{i}"]))
            current = f"h{i}"
    head, extra, kind = _head(task, current, target)
    graph = helper.make_graph(
        nodes + head, "raysaas",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("outputs", kind, ["n", "k"])],
        constants + extra,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _head(task: Task, current: str, target: tuple[float, float]) -> tuple[list[Any], list[Any], int]:
    from onnx import TensorProto, helper, numpy_helper

    if task is Task.binary:
        return [helper.make_node("Sigmoid", [current], ["outputs"])], [], TensorProto.FLOAT
    if task is Task.multiclass:
        return [helper.make_node("Softmax", [current], ["outputs"], axis=-1)], [], TensorProto.FLOAT
    mean, std = target
    # In float64: a large mean with a small deviation would drown in float32.
    nodes = [
        helper.make_node("Cast", [current], ["standardised"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["standardised", "std"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["outputs"]),
    ]
    scalars = {"mean": np.float64(mean), "std": np.float64(std)}
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in scalars.items()]
    return nodes, constants, TensorProto.DOUBLE
