"""Binary tensors: what clients pack is what the model gets, and nothing malformed passes."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.http import InferInput
from tritonclient.utils import deserialize_bytes_tensor, np_to_triton_dtype

from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.serving.tensors import tensor, values

ROW = {"amount": 3.5, "visits": 2, "vip": True, "plan": "pro"}
INFER, HEADER = "/v2/models/shop/infer", "inference-header-content-length"
DTYPES = [np.bool_, np.float16, np.float32, np.float64, *(np.dtype(f"{k}{n}").type for k in "iu" for n in (1, 2, 4, 8))]


def packed(array: np.ndarray) -> tuple[dict, bytes]:
    """A tensor as the published client packs it."""
    made = InferInput("x", list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made._get_tensor(), made._get_binary_data()


@given(st.data(), st.sampled_from(DTYPES))
def test_numbers_arrive_as_they_were(data, dtype):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        drawn = st.just(float("nan")) | st.floats(width=8 * kind.itemsize)
    else:
        drawn = st.booleans() if kind.kind == "b" else st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)
    array = np.array(data.draw(st.lists(drawn, max_size=5)), dtype)
    described, raw = packed(array)
    assert values(described, raw) == [None if value != value else value for value in array.tolist()]


@given(st.lists(st.text(), max_size=5))
def test_text_arrives_as_it_was_and_empty_is_missing(texts):
    described, raw = packed(np.array(texts, object))
    assert values(described, raw) == [text or None for text in texts]
    again, sent = tensor("x", "BYTES", texts, binary=True)
    assert again["parameters"]["binary_data_size"] == len(sent)
    assert [item.decode() for item in deserialize_bytes_tensor(sent)] == texts


@given(st.binary(max_size=20), st.sampled_from(["BYTES", "FP32", "INT64", "BOOL", "FP8", None, 3]))
def test_any_bytes_are_values_or_refused_by_name(raw, datatype):
    refused, found = "", []
    try:
        found = values({"name": "x", "datatype": datatype, "shape": [len(raw)]}, raw)
    except InputError as error:
        refused = str(error)
    assert "'x'" in refused or len(found) == len(raw)


def body(tensors, parts=(), **more):
    head = orjson.dumps({"inputs": tensors, **more})
    return head + b"".join(parts), {HEADER: str(len(head))}


def binary_row():
    arrays = {
        "amount": np.array([3.5]),
        "visits": np.array([2]),
        "vip": np.array([True]),
        "plan": np.array(["pro"], object),
    }
    pairs = [packed(array) for array in arrays.values()]
    return [{**one, "name": name} for name, (one, _) in zip(arrays, pairs, strict=True)], [raw for _, raw in pairs]


def test_outputs_come_as_they_are_asked_for(make_app):
    app = make_app(Task.multiclass)
    tensors, parts = binary_row()
    expected = app.client("POST", "/predict", {"instances": [ROW]}).json["decisions"][0]
    raw, headers = body(
        tensors, parts, outputs=[{"name": "scores", "parameters": {"binary_data": True}}, {"name": "arm"}]
    )
    reply = app.client("POST", INFER, raw, headers=headers)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/octet-stream")
    length = int(reply.headers[HEADER])
    described = orjson.loads(reply.body[:length])["outputs"]
    assert [(one["name"], one["shape"]) for one in described] == [("scores", [1, 3]), ("arm", [1])]
    assert np.frombuffer(reply.body[length:]).tolist() == list(expected["scores"].values())
    assert described[1]["data"] == ["champion"]
    plain = app.client("POST", INFER, {"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [1]}]})
    assert {one["name"] for one in plain.json["outputs"]} == {
        "decision_id",
        "score",
        "label",
        "model_version",
        "arm",
        "scores",
    }
    names = [one["name"] for one in app.client("GET", "/v2/models/shop/versions/1").json["outputs"]]
    assert names == [one["name"] for one in plain.json["outputs"]]


def _longer(tensors, parts):
    tensors[0]["parameters"]["binary_data_size"] += 1


def _twice(tensors, parts):
    tensors[1]["name"] = "amount"


def _more(tensors, parts):
    parts.append(b"x")


def _negative(tensors, parts):
    tensors[0]["parameters"]["binary_data_size"] = -8


def _half(tensors, parts):
    tensors[0]["shape"] = [2]


def _within(tensors, parts):
    parts[3] = b"\xff\x00\x00\x00pro"


@pytest.mark.parametrize("spoil", [_longer, _twice, _more, _negative, _half, _within])
def test_parts_that_do_not_fit_are_refused(make_app, spoil):
    app = make_app()
    tensors, parts = binary_row()
    raw, headers = body(tensors, parts)
    assert app.client("POST", INFER, raw, headers=headers).status == 200
    spoil(tensors, parts)
    raw, headers = body(tensors, parts)
    reply = app.client("POST", INFER, raw, headers=headers)
    assert (reply.status, reply.json["error"]) == (422, reply.json["detail"])


@pytest.mark.parametrize("length", ["-1", "1e3", "99999", "9" * 30, "x", "٣"])
def test_a_header_length_that_cannot_be_is_400(make_app, length):
    tensors, parts = binary_row()
    raw, _ = body(tensors, parts)
    client = make_app().client
    client_reply = client("POST", INFER, raw, headers={HEADER: length})
    assert client_reply.status == 400
    assert "Inference-Header-Content-Length" in client_reply.json["detail"]


@pytest.mark.parametrize(
    "rest", ["shop/versions/2", "shop/versions/2/infer", "shop/versions/", "shop/versions/1/no", "x/infer"]
)
def test_a_version_that_does_not_answer_is_404(make_app, rest):
    app = make_app()
    for method in ("GET", "POST"):
        assert app.client(method, f"/v2/models/{rest}", {}).status == 404
    assert app.client("GET", "/v2/models/shop/versions/1/infer").status == 405
