"""Tensors of the Open Inference Protocol, as JSON and in its binary form, to plain values and back. Pure.

Source: the protocol's data types (https://github.com/kserve/open-inference-protocol) and Triton's binary data extension
(``protocol/extension_binary_data.md``), which its clients use unless told otherwise: numbers little-endian and row
after row, each BYTES element behind its length as four bytes. Binary numbers have no null: NaN and an empty BYTES
element stand for a missing value.
"""

import struct
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from raysaas.errors import InputError

_DTYPES = {
    "BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
    **{f"{kind}{8 * size}": f"<{kind[0].lower()}{size}" for kind in ("INT", "UINT") for size in (1, 2, 4, 8)},
}  # fmt: skip
DATATYPES = (*_DTYPES, "BYTES")


def tensor_name(item: Mapping[str, Any]) -> str:
    """The name of an input tensor; InputError when it has none."""
    name = item.get("name")
    if not isinstance(name, str):
        raise InputError("Each tensor of 'inputs' needs a name: that of a feature.")
    return name[:80]


def binary_size(item: Mapping[str, Any]) -> int | None:
    """How many bytes of the binary part are this tensor's; None when its values are in ``data``."""
    size = _parameters(item).get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InputError(f"Tensor {tensor_name(item)!r} has a binary_data_size that is no number of bytes.")
    return size


def values(item: Mapping[str, Any], raw: bytes | None) -> list[Any]:
    """The values of a tensor of one feature, from its binary part ``raw`` or else from its ``data``.

    Raises InputError naming the tensor when values, data type and shape are not of the same number.
    """
    data = _unpacked(item, raw) if raw is not None else item.get("data")
    if not isinstance(data, list):
        raise InputError(f"Tensor {tensor_name(item)!r} needs its values in 'data', or their size in binary_data_size.")
    if data and all(isinstance(row, list) for row in data):
        data = list(chain.from_iterable(data))
    shape = item.get("shape")
    if shape not in ([len(data)], [len(data), 1]):
        raise InputError(f"Tensor {tensor_name(item)!r} has {len(data)} values, which is not its shape {shape!r}.")
    return data


def tensor(name: str, datatype: str, data: Sequence[Any], binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output tensor: what goes into the JSON part, and what into the binary one. Rows may be lists of one length."""
    shape = [len(data), *([len(data[0])] if data and isinstance(data[0], list) else [])]
    described: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
    if not binary:
        return described | {"data": list(data)}, b""
    raw = _packed(data) if datatype == "BYTES" else np.array(data, _DTYPES[datatype]).tobytes()
    return described | {"parameters": {"binary_data_size": len(raw)}}, raw


def wants_binary(item: Mapping[str, Any], default: bool) -> bool:
    """Whether a client asks for an output tensor in binary form."""
    return bool(_parameters(item).get("binary_data", default))


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("parameters")
    return found if isinstance(found, dict) else {}


def _unpacked(item: Mapping[str, Any], raw: bytes) -> list[Any]:
    datatype = item.get("datatype")
    if datatype == "BYTES":
        return _texts(tensor_name(item), raw)
    dtype = np.dtype(_DTYPES[datatype]) if isinstance(datatype, str) and datatype in _DTYPES else None
    if dtype is None:
        raise InputError(
            f"Tensor {tensor_name(item)!r} has an unknown datatype: expected one of {', '.join(DATATYPES)}."
        )
    if len(raw) % dtype.itemsize:
        raise InputError(f"Tensor {tensor_name(item)!r} has {len(raw)} bytes, which is no whole number of {datatype}.")
    found: list[Any] = np.frombuffer(raw, dtype).tolist()
    return [None if value != value else value for value in found] if dtype.kind == "f" else found


def _texts(name: str, raw: bytes) -> list[Any]:
    found: list[Any] = []
    at = 0
    while at < len(raw):
        length = struct.unpack_from("<I", raw, at)[0] if at + 4 <= len(raw) else len(raw)
        text = raw[at + 4 : at + 4 + length]
        at += 4 + length
        if at > len(raw):
            raise InputError(f"Tensor {name!r} ends within an element: expected each behind its length as four bytes.")
        try:
            found.append(text.decode() or None)
        except UnicodeDecodeError:
            raise InputError(f"Tensor {name!r} has an element that is no UTF-8 text.") from None
    return found


def _packed(data: Sequence[Any]) -> bytes:
    raws = [str(value).encode() for value in data]
    return b"".join(part for raw in raws for part in (struct.pack("<I", len(raw)), raw))
