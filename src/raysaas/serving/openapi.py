"""The OpenAPI document of one use case, made from the champion's own encoder: its real fields, a body that works."""

from typing import Any

from raysaas.models.bundle import Bundle
from raysaas.models.encode import Field
from raysaas.records import Task
from raysaas.serving.events import event_schema
from raysaas.serving.protocol import DECISION_ID
from raysaas.serving.spec import AppSpec, EventSource

_TYPES = {"number": "number", "integer": "integer", "boolean": "boolean", "category": "string"}
_ERRORS = {
    400: "The body is not JSON.",
    401: "No key, or a wrong one.",
    403: "The key lacks the scope.",
    413: "The body is too large.",
    422: "A field is wrong; the detail names it.",
    429: "Over the limit; see Retry-After.",
    503: "Try again later.",
}


def describe(spec: AppSpec, bundle: Bundle, by_entity: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document; ``by_entity`` adds an example of a request by entity id.

    Everyone may read it, so the entity of the example is no tenant's.
    """
    name = spec.use_case
    return {
        "openapi": "3.1.0",
        "info": {"title": spec.title or name, "version": bundle.digest[:16]},
        "servers": [{"url": f"/{name}"}],
        "security": [{"key": []}],
        "paths": {
            "/predict": {"post": _call("Score rows", _predict(spec, bundle, by_entity), _decisions(spec.task))},
            "/feedback": {"post": _call("Report what happened", _feedback(bundle), {"accepted": {"type": "integer"}})},
            **{f"/events/{source}": {"post": _events(source, taken, spec)} for source, taken in spec.events.items()},
            "/drift": {"get": _call("Latest drift reports", None, {"reports": {"type": "array", "items": _OBJECT}})},
            "/health": {"get": _call("Which release answers", None, {"status": _TEXT}, public=True)},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Instance": _instance(bundle.encoder.fields), "Problem": _PROBLEM},
        },
    }


_OBJECT: dict[str, Any] = {"type": "object"}
_TEXT: dict[str, Any] = {"type": "string"}
_ID = _TEXT | {"pattern": f"^{DECISION_ID.pattern}$"}
_EXAMPLE_ID = "0199c82cc5c80123456789abcdef0123"  # well formed, and of no decision
_PROBLEM = {
    "type": "object",
    "properties": {key: {"type": "string"} for key in ("type", "title", "detail")} | {"status": {"type": "integer"}},
}


def _call(
    summary: str, request: Any, answer: dict[str, Any], public: bool = False, status: int = 200
) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    expected = _ERRORS if request else {503: _ERRORS[503]} if public else {c: _ERRORS[c] for c in (401, 403, 429, 503)}
    responses = {str(code): {"description": text, "content": problem} for code, text in expected.items()}
    responses[str(status)] = {
        "description": "Done." if status == 200 else "Kept; ingest will judge the values.",
        "content": {"application/json": {"schema": {"type": "object", "properties": answer, "required": list(answer)}}},
    }
    call: dict[str, Any] = {"summary": summary, "responses": responses} | ({"security": []} if public else {})
    if request:
        call["requestBody"] = {"required": True, "content": {"application/json": request}}
    return call


def _predict(spec: AppSpec, bundle: Bundle, by_entity: bool) -> dict[str, Any]:
    rows = {"type": "array", "minItems": 1, "maxItems": spec.serve.max_instances}
    properties = {
        "instances": rows | {"items": {"$ref": "#/components/schemas/Instance"}},
        "entities": rows | {"items": _TEXT, "description": "Ids whose features are read online; given values win."},
    }
    schema = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["instances"]}, {"required": ["entities"]}],
    }
    row = {field.name: example_value(field) for field in bundle.encoder.fields}
    examples = {"instances": _example("Rows of values", {"instances": [row]})}
    if by_entity:
        examples["entities"] = _example("Ids whose features are kept online", {"entities": ["ENTITY_ID"]})
    return {"schema": schema, "examples": examples}


def _events(name: str, source: EventSource, spec: AppSpec) -> dict[str, Any]:
    request = event_schema(source, spec.serve.max_instances)
    return _call(f"Send rows of {name} as they happen", request, {"accepted": {"type": "integer"}}, status=202)


def _example(summary: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "value": value}


def _instance(fields: tuple[Field, ...]) -> dict[str, Any]:
    required = [field.name for field in fields if field.required]
    properties = {field.name: _field(field) for field in fields}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _field(field: Field) -> dict[str, Any]:
    kind = _TYPES[field.kind]
    described = {"type": kind if field.required else [kind, "null"], "examples": [example_value(field)]}
    seen = f"Seen in training: {', '.join(field.levels[:20])}." if field.levels else ""
    return described | ({"description": seen} if seen else {})


def example_value(field: Field) -> Any:
    """A usual value of ``field``: the median, or the most frequent level."""
    if field.kind == "category":
        return field.levels[0] if field.levels else None
    if field.kind == "boolean":
        return bool(field.median)
    return int(field.median) if field.kind == "integer" else float(f"{field.median:.6g}")


def _decisions(task: Task) -> dict[str, Any]:
    label = {"type": "null"} if task is Task.regression else _TEXT
    properties: dict[str, Any] = {
        "decision_id": _ID,
        "score": {"type": "number"},
        "label": label,
        "model_version": {"type": "integer"},
        "arm": _TEXT,
    }
    if task is Task.multiclass:
        properties["scores"] = {"type": "object", "additionalProperties": {"type": "number"}}
    item = {"type": "object", "properties": properties, "required": list(properties)}
    return {"decisions": {"type": "array", "items": item}}


def _feedback(bundle: Bundle) -> dict[str, Any]:
    properties = {
        "decision_id": _ID,
        "label": {"type": ["string", "number", "boolean"]},
        "observed_at": {"type": "string", "format": "date-time"},
    }
    item = {
        "type": "object",
        "properties": properties,
        "required": ["decision_id", "label"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"outcomes": {"type": "array", "items": item, "minItems": 1}},
        "required": ["outcomes"],
        "additionalProperties": False,
    }
    label = bundle.labels[-1] if bundle.labels else 1.0
    outcome = {"outcomes": [{"decision_id": _EXAMPLE_ID, "label": label}]}
    return {"schema": schema, "examples": {"outcome": _example("The outcome of one decision", outcome)}}
