"""The OpenAPI document of one use case, made from the champion's own encoder: its real fields, bodies that work, and
every status that a route can answer with."""

from collections.abc import Iterable, Mapping
from typing import Any

from raysaas.models.bundle import Bundle
from raysaas.serving import schemas
from raysaas.serving.events import event_schema
from raysaas.serving.schemas import OBJECT, TEXT
from raysaas.serving.spec import AppSpec

_ERRORS = {
    400: "The body is not JSON, or not what its headers say.",
    401: "No key, or a wrong one.",
    403: "The key lacks the scope.",
    404: "There is no such thing.",
    408: "The body took too long to arrive.",
    413: "The body is too large.",
    422: "A field is wrong; the detail names it.",
    429: "Over the limit; see Retry-After.",
    502: "The replica ended while it answered: send it again.",
    503: "Try again later.",
    504: "Not within the deadline of X-Request-Timeout-Ms; nothing was done.",
}
_PUBLIC = (502, 503)
_KEYED = (401, 403, 429, 502, 503)
_ACTING = (400, 401, 403, 408, 413, 422, 429, 502, 503, 504)
_DEADLINE = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "schema": {"type": "integer", "minimum": 1},
    "description": "How long the answer is of use, in milliseconds; what cannot be done by then is refused.",
}
_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    "description": "Your own name of this request, which the answer repeats; it is not kept.",
}


def describe(spec: AppSpec, bundle: Bundle, by_entity: bool, version: int) -> dict[str, Any]:
    """The OpenAPI 3.1 document; ``by_entity`` adds an example of a request by entity id, ``version`` is the champion's.

    Everyone may read it, so the entity of the example is no tenant's.
    """
    return {
        "openapi": "3.1.0",
        "info": {"title": spec.title or spec.use_case, "version": bundle.digest[:16]},
        "servers": [{"url": f"/{spec.use_case}"}],
        "security": [{"key": []}],
        "paths": {**_own_paths(spec, bundle, by_entity), **_inference_paths(spec, bundle, version)},
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Instance": schemas.instance(bundle.encoder.fields, spec), "Problem": schemas.PROBLEM},
        },
    }


def _own_paths(spec: AppSpec, bundle: Bundle, by_entity: bool) -> dict[str, Any]:
    accepted, decisions = _object({"accepted": {"type": "integer"}}), _object(schemas.decisions(spec.task))
    kept = "Kept; ingest will judge the values."
    return {
        "/predict": {"post": _act("Score rows", _predict(spec, bundle, by_entity), decisions)},
        "/feedback": {"post": _act("Report what happened", _feedback(spec, bundle), accepted)},
        **{
            f"/events/{name}": {
                "post": _act(
                    f"Send rows of {name} as they happen",
                    {_JSON: event_schema(source, spec.serve.max_instances)},
                    accepted,
                    {202: kept},
                )
            }
            for name, source in spec.events.items()
        },
        "/drift": {"get": _look("Latest drift reports", {"reports": {"type": "array", "items": OBJECT}})},
        "/health": {"get": _look("Which release answers", {"status": TEXT}, public=True)},
    }


def _inference_paths(spec: AppSpec, bundle: Bundle, version: int) -> dict[str, Any]:
    """The Open Inference Protocol; a version in a path must be the champion's, which the metadata name."""
    model, numbered = f"/v2/models/{spec.use_case}", f"/v2/models/{spec.use_case}/versions/{{version}}"
    metadata = {"name": TEXT, "versions": _list(TEXT), "inputs": _list(OBJECT), "outputs": _list(OBJECT)}
    outputs = {"model_name": TEXT, "model_version": TEXT, "outputs": _list(schemas.TENSOR)}
    infer = _act("Infer (Open Inference Protocol)", _tensors(spec, bundle), _object(outputs))
    infer["responses"]["200"]["content"][_BINARY] = {"schema": TEXT | {"format": "binary"}}
    ready = {"name": TEXT, "ready": {"type": "boolean"}}
    look = _look("The model's inputs and outputs", metadata)
    of_model = _look("Whether the model answers", ready, public=True)
    return {
        "/v2": {"get": _look("The server", {"name": TEXT, "version": TEXT, "extensions": _list(TEXT)})},
        "/v2/health/live": {"get": _look("Whether the server lives", {"live": {"type": "boolean"}}, public=True)},
        "/v2/health/ready": {"get": _look("Whether the server answers", ready, public=True)},
        model: {"get": look},
        f"{model}/ready": {"get": of_model},
        f"{model}/infer": {"post": infer},
        numbered: {"get": _of_version(look, version)},
        f"{numbered}/ready": {"get": _of_version(of_model, version)},
        f"{numbered}/infer": {"post": _of_version(infer, version)},
    }


_JSON, _BINARY = "application/json", "application/octet-stream"


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _look(summary: str, answer: dict[str, Any], public: bool = False) -> dict[str, Any]:
    call = {"summary": summary, "responses": _responses(_PUBLIC if public else _KEYED, _object(answer), {200: "Done."})}
    return call | ({"security": []} if public else {})


def _act(
    summary: str, content: dict[str, Any], answer: dict[str, Any], done: Mapping[int, str] | None = None
) -> dict[str, Any]:
    return {
        "summary": summary,
        "parameters": [_DEADLINE, _REQUEST_ID],
        "requestBody": {"required": True, "content": content},
        "responses": _responses(_ACTING, answer, done or {200: "Done."}),
    }


def _of_version(call: dict[str, Any], version: int) -> dict[str, Any]:
    given = {"name": "version", "in": "path", "required": True, "schema": TEXT, "example": str(version)}
    responses = call["responses"] | {"404": _problem(404)}
    return call | {"parameters": [given, *call.get("parameters", [])], "responses": responses}


def _responses(errors: Iterable[int], answer: dict[str, Any], done: Mapping[int, str]) -> dict[str, Any]:
    good = {str(code): {"description": text, "content": {_JSON: {"schema": answer}}} for code, text in done.items()}
    return good | {str(code): _problem(code) for code in errors}


def _problem(code: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": _ERRORS[code], "content": content}


def _predict(spec: AppSpec, bundle: Bundle, by_entity: bool) -> dict[str, Any]:
    row = schemas.example_row(bundle.encoder.fields, spec.contract)
    examples = {"instances": _example("Rows of values", {"instances": [row]})}
    if by_entity:
        examples["entities"] = _example("Ids whose features are kept online", {"entities": ["ENTITY_ID"]})
    return {_JSON: {"schema": schemas.predict_body(bundle.encoder.fields, spec), "examples": examples}}


def _feedback(spec: AppSpec, bundle: Bundle) -> dict[str, Any]:
    label = bundle.labels[-1] if bundle.labels else 1.0
    outcome = {"outcomes": [{"decision_id": schemas.EXAMPLE_ID, "label": label}]}
    examples = {"outcome": _example("The outcome of one decision", outcome)}
    return {_JSON: {"schema": schemas.feedback_body(spec), "examples": examples}}


def _tensors(spec: AppSpec, bundle: Bundle) -> dict[str, Any]:
    kinds = {"number": "FP64", "integer": "INT64", "boolean": "BOOL", "category": "BYTES"}
    row = schemas.example_row(bundle.encoder.fields, spec.contract)
    tensors = [
        {"name": f.name, "datatype": kinds[f.kind], "shape": [1], "data": [row[f.name]]} for f in bundle.encoder.fields
    ]
    schema = _object({"inputs": _list(schemas.TENSOR) | {"minItems": 1}})
    schema["properties"] |= {"id": TEXT, "outputs": _list(_object({"name": TEXT})), "parameters": OBJECT}
    examples = {"tensors": _example("One tensor per feature", {"inputs": tensors})}
    return {_JSON: {"schema": schema, "examples": examples}, _BINARY: {"schema": TEXT | {"format": "binary"}}}


def _example(summary: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "value": value}
