"""Open Inference Protocol v2: metadata, readiness and inference, one tensor per feature, in JSON or binary form.

Source: https://github.com/kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``, with the binary
data extension of :mod:`raysaas.serving.tensors`.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import orjson

from raysaas.errors import InputError, NotFound, Terminal
from raysaas.records import Task
from raysaas.serving.predictor import Predictor
from raysaas.serving.protocol import JSON, PredictRequest, load_object
from raysaas.serving.tensors import binary_size, tensor, tensor_name, values, wants_binary
from raysaas.tenancy.keys import Access

SERVER = {"name": "raysaas", "version": version("raysaas"), "extensions": ["binary_tensor_data"]}
HEADER = b"inference-header-content-length"  # of a request or an answer with a binary part: where that begins
_DATATYPES = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES"}
_OUTPUTS = {"decision_id": "BYTES", "score": "FP64", "label": "BYTES", "model_version": "INT64", "arm": "BYTES"}
_VERSIONS = "/versions/"


class Inferred(NamedTuple):
    """An answer: its content type, its bytes, and the headers that say where a binary part begins."""

    kind: bytes
    body: bytes
    headers: Sequence[tuple[bytes, bytes]]


def metadata(predictor: Predictor) -> dict[str, Any]:
    """Names, data types and shapes of the champion's inputs and of the outputs; -1 is any number of rows."""
    champion = predictor.answering.champion
    inputs = [{"name": f.name, "datatype": _DATATYPES[f.kind], "shape": [-1]} for f in champion.bundle.encoder.fields]
    described = {"name": predictor.spec.use_case, "versions": [str(champion.number)], "platform": "raysaas"}
    labels = list(champion.bundle.labels)
    shapes = {"scores": [-1, len(labels)]}
    outputs = [
        {"name": name, "datatype": kind, "shape": shapes.get(name, [-1])}
        for name, kind in _outputs(predictor.spec.task).items()
    ]
    return described | {"inputs": inputs, "outputs": outputs} | ({"parameters": {"labels": labels}} if labels else {})


def unversioned(path: str, predictor: Predictor) -> str:
    """``/v2/models/NAME/versions/V/...`` as ``/v2/models/NAME/...`` when version V is the champion, else NotFound."""
    before, found, after = path.partition(_VERSIONS)
    if not found:
        return path
    wanted, slash, rest = after.partition("/")
    if wanted != str(predictor.answering.champion.number):
        raise NotFound("This version does not answer: the model's metadata name the one that does.")
    return f"{before}{slash}{rest}"


async def infer(
    predictor: Predictor, access: Access, body: bytes, header: bytes, deadline: float = math.inf
) -> Inferred:
    """Answer an inference request; features without a tensor are missing values.

    ``header`` is the length of the JSON part as the request says it, empty without a binary part. Raises Terminal for
    a length that cannot be, and what a prediction raises.
    """
    length = _length(header, len(body))
    parsed = load_object(body[:length])
    rows = _rows(parsed.get("inputs"), body[length:], predictor.spec.serve.max_instances)
    asked = _asked(parsed, _outputs(predictor.spec.task))
    decisions = await predictor.decide(access.tenant, PredictRequest(rows, [None] * len(rows), False), deadline)
    known, labels = _outputs(predictor.spec.task), predictor.answering.champion.bundle.labels
    tensors = [
        tensor(name, known[name], [_of(decision, name, labels) for decision in decisions], binary)
        for name, binary in asked
    ]
    answer = {
        "model_name": predictor.spec.use_case,
        "model_version": str(decisions[0]["model_version"]),
        "outputs": [described for described, _ in tensors],
    }
    head = orjson.dumps(answer | ({"id": parsed["id"]} if isinstance(parsed.get("id"), str) else {}))
    if not any(binary for _, binary in asked):
        return Inferred(JSON, head, ())
    return Inferred(
        b"application/octet-stream", b"".join((head, *(raw for _, raw in tensors))), [(HEADER, b"%d" % len(head))]
    )


def _outputs(task: Task) -> dict[str, str]:
    """Name and data type of each output tensor; a multi-class model gives ``scores`` in the order of its labels."""
    known = {name: kind for name, kind in _OUTPUTS.items() if name != "label" or task is not Task.regression}
    return known | ({"scores": "FP64"} if task is Task.multiclass else {})


def _of(decision: dict[str, Any], name: str, labels: Sequence[str]) -> Any:
    return [decision["scores"][label] for label in labels] if name == "scores" else decision[name]


def _length(header: bytes, size: int) -> int:
    if not header:
        return size
    length = int(header) if header.isdigit() and len(header) < 20 else -1
    if not 0 <= length <= size:
        raise Terminal("Inference-Header-Content-Length must be the number of bytes of the body's JSON part.")
    return length


def _asked(parsed: dict[str, Any], known: dict[str, str]) -> list[tuple[str, bool]]:
    """Which outputs the request asks for, all by default, and which of them in binary form."""
    asked, parameters = parsed.get("outputs"), parsed.get("parameters")
    binary = bool(parameters.get("binary_data_output")) if isinstance(parameters, dict) else False
    if asked is None or asked == []:
        return [(name, binary) for name in known]
    if not isinstance(asked, list) or not all(isinstance(item, dict) for item in asked):
        raise InputError("'outputs' must be a list of objects, each with the name of an output.")
    if unknown := [item for item in asked if not isinstance(item.get("name"), str) or item["name"] not in known]:
        where = asked.index(unknown[0])
        raise InputError(f"outputs[{where}] is no output of this model: expected some of {', '.join(known)}.")
    return [(item["name"], wants_binary(item, binary)) for item in asked]


def _rows(inputs: Any, binary: bytes, limit: int) -> list[dict[str, Any]]:
    if not isinstance(inputs, list) or not inputs or not all(isinstance(item, dict) for item in inputs):
        raise InputError("'inputs' must be a list of tensors, each with name, shape, datatype and data.")
    columns: dict[str, list[Any]] = {}
    at = 0
    for item in inputs:
        name = tensor_name(item)
        size = binary_size(item)
        if name in columns or (size is not None and at + size > len(binary)):
            wrong = "is given twice" if name in columns else "is longer than the body's binary part"
            raise InputError(f"Tensor {name!r} {wrong}.")
        columns[name] = values(item, None if size is None else binary[at : at + size])
        at += size or 0
    if at != len(binary):
        raise InputError(f"The body's binary part has {len(binary)} bytes, its tensors {at}: expected as many.")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1 or not 1 <= max(lengths) <= limit:
        raise InputError(f"Tensors must all have the same number of rows, 1 to {limit}.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
