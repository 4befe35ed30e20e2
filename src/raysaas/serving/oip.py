"""Open Inference Protocol v2, the narrow part: metadata and inference with JSON tensors, one tensor per feature.

Source: https://github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``.
"""

from collections.abc import Mapping
from importlib.metadata import version
from itertools import chain
from typing import Any

import orjson

from raysaas.errors import InputError
from raysaas.serving.predictor import Predictor
from raysaas.serving.protocol import PredictRequest, load_object
from raysaas.tenancy.keys import Access

SERVER = {"name": "raysaas", "version": version("raysaas"), "extensions": []}
_DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES"}


def metadata(predictor: Predictor) -> dict[str, Any]:
    """Names, data types and shapes of the champion's inputs and of the outputs; -1 is any number of rows."""
    now, task = predictor.answering, predictor.spec.task
    inputs = [
        {"name": f.name, "datatype": _DATATYPES[f.kind], "shape": [-1]} for f in now.champion.bundle.encoder.fields
    ]
    names = {"decision_id": "BYTES", "score": "FP64"} | ({} if task == "regression" else {"label": "BYTES"})
    outputs = [{"name": name, "datatype": datatype, "shape": [-1]} for name, datatype in names.items()]
    return {
        "name": predictor.spec.use_case,
        "versions": [str(now.champion.number)],
        "platform": "raysaas",
        "inputs": inputs,
        "outputs": outputs,
    }


async def infer(predictor: Predictor, access: Access, body: bytes) -> bytes:
    """Answer an inference request; features without a tensor are missing values."""
    parsed = load_object(body)
    rows = _rows(parsed.get("inputs"), predictor.spec.serve.max_instances)
    decisions = await predictor.decide(access.tenant, PredictRequest(rows, [None] * len(rows), False))
    outputs = [
        _tensor(name, datatype, [d[name] for d in decisions])
        for name, datatype in (("decision_id", "BYTES"), ("score", "FP64"), ("label", "BYTES"))
        if decisions[0][name] is not None
    ]
    answer = {
        "model_name": predictor.spec.use_case,
        "model_version": str(decisions[0]["model_version"]),
        "outputs": outputs,
    }
    return orjson.dumps(answer | ({"id": parsed["id"]} if isinstance(parsed.get("id"), str) else {}))


def _rows(inputs: Any, limit: int) -> list[dict[str, Any]]:
    if not isinstance(inputs, list) or not inputs or not all(isinstance(item, dict) for item in inputs):
        raise InputError("'inputs' must be a list of tensors, each with name, shape, datatype and data.")
    columns = {_name(item): _values(item) for item in inputs}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or not 1 <= max(lengths) <= limit:
        raise InputError(f"Tensors must all have the same number of rows, 1 to {limit}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _name(item: Mapping[str, Any]) -> str:
    name = item.get("name")
    if not isinstance(name, str):
        raise InputError("Each tensor of 'inputs' needs a name: that of a feature.")
    return name


def _values(item: Mapping[str, Any]) -> list[Any]:
    data, shape = item.get("data"), item.get("shape")
    if not isinstance(data, list):
        raise InputError(f"Tensor {item['name']!r} needs its values in 'data'; binary tensors are not supported.")
    if data and all(isinstance(row, list) for row in data):
        data = list(chain.from_iterable(data))
    if shape not in ([len(data)], [len(data), 1]):
        raise InputError(
            f"Tensor {item['name']!r} has {len(data)} values: expected the shape [{len(data)}], got {shape}."
        )
    return data


def _tensor(name: str, datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}
