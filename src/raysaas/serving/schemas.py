"""JSON Schemas of what is sent to a use case and what it answers, from its model's own fields and their contract."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from raysaas.models.encode import Field
from raysaas.records import Task
from raysaas.serving.outcomes import DECISION_ID
from raysaas.serving.spec import AppSpec
from raysaas.settings import ExtraFields
from raysaas.use_case import Column

OBJECT: dict[str, Any] = {"type": "object"}
TEXT: dict[str, Any] = {"type": "string"}
PROBLEM: dict[str, Any] = {
    "type": "object",
    "properties": dict.fromkeys(("type", "title", "detail"), TEXT) | {"status": {"type": "integer"}},
    "required": ["type", "title", "status", "detail"],
}
TENSOR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": TEXT,
        "datatype": TEXT,
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape"],
}
_TYPES = {"number": "number", "integer": "integer", "boolean": "boolean", "category": "string"}
_ID = TEXT | {"pattern": f"^{DECISION_ID.pattern}$"}
_KEY = {"type": ["string", "null"], "minLength": 1, "maxLength": 200}
EXAMPLE_ID = "0199c82cc5c80123456789abcdef0123"  # well formed, and of no decision


def instance(fields: Sequence[Field], spec: AppSpec) -> dict[str, Any]:
    """One row; what only its contract requires may be absent where the row has an entity."""
    return {
        "type": "object",
        "properties": {field.name: _field(field, spec.contract.get(field.name)) for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": spec.serve.extra_fields is ExtraFields.ignore,
        "minProperties": 1,
    }


def predict_body(fields: Sequence[Field], spec: AppSpec) -> dict[str, Any]:
    """Rows, entities or both."""
    rows = {"type": "array", "minItems": 1, "maxItems": spec.serve.max_instances}
    needed = [field.name for field in fields if spec.contract.get(field.name, Column()).required]
    alone = {"items": {"required": needed}} if needed else {}
    return {
        "type": "object",
        "properties": {
            "instances": rows | {"items": {"$ref": "#/components/schemas/Instance"}},
            "entities": rows | {"items": TEXT, "description": "Ids whose features are read online; given values win."},
            "keys": rows | {"items": _KEY, "description": "Your own names of the decisions, for their outcomes."},
        },
        "additionalProperties": False,
        "anyOf": [
            {"required": ["instances"], "properties": {"instances": alone, "entities": False}},
            {"required": ["entities"]},
        ],
    }


def decisions(task: Task) -> dict[str, Any]:
    """The answer to a prediction."""
    properties: dict[str, Any] = {
        "decision_id": _ID,
        "score": {"type": "number"},
        "label": {"type": "null"} if task is Task.regression else TEXT,
        "model_version": {"type": "integer"},
        "arm": TEXT,
    }
    if task is Task.multiclass:
        properties["scores"] = {"type": "object", "additionalProperties": {"type": "number"}}
    item = {"type": "object", "properties": properties, "required": list(properties)}
    return {"decisions": {"type": "array", "items": item}}


def feedback_body(spec: AppSpec) -> dict[str, Any]:
    """What really happened, by decision id or by the caller's own key."""
    item = {
        "type": "object",
        "properties": {
            "decision_id": _ID,
            "key": _KEY | {"type": "string"},
            "label": {"type": ["string", "number", "boolean"]},
            "observed_at": {"type": "string", "format": "date-time"},
        },
        "required": ["label"],
        "oneOf": [{"required": ["decision_id"]}, {"required": ["key"]}],
        "additionalProperties": False,
    }
    outcomes = {"type": "array", "items": item, "minItems": 1, "maxItems": spec.serve.max_instances}
    return {
        "type": "object",
        "properties": {"outcomes": outcomes},
        "required": ["outcomes"],
        "additionalProperties": False,
    }


def example_row(fields: Sequence[Field], contract: Mapping[str, Column]) -> dict[str, Any]:
    """A row of usual values that keeps the contract, patterns aside."""
    return {field.name: _example(field, contract.get(field.name)) for field in fields}


def _field(field: Field, column: Column | None) -> dict[str, Any]:
    kind = _TYPES[field.kind]
    told = [f"Seen in training: {', '.join(field.levels[:20])}."] if field.levels else []
    if column is not None and column.required:
        told.insert(0, "Required of a row without an entity.")
    described: dict[str, Any] = {
        "type": kind if field.required else [kind, "null"],
        "examples": [_example(field, column)],
    }
    return described | _bounds(field, column) | ({"description": " ".join(told)} if told else {})


def _bounds(field: Field, column: Column | None) -> dict[str, Any]:
    if column is None:
        return {}
    found: dict[str, Any] = {}
    if field.kind in ("number", "integer"):
        found |= {"minimum": column.min} if column.min is not None else {}
        found |= {"maximum": column.max} if column.max is not None else {}
    if column.values is not None and field.kind != "boolean":
        allowed: list[Any] = list(column.values) if field.kind == "category" else [float(v) for v in column.values]
        found["enum"] = [*allowed, None]
    if column.pattern is not None and _is_regular(column.pattern):
        found["pattern"] = f"^(?:{column.pattern})$"
    return found


def _is_regular(pattern: str) -> bool:
    # RE2 has spellings of its own, which those who read JSON Schemas do not know.
    try:
        re.compile(pattern)
    except re.error:
        return False
    return "(?" not in pattern.replace("(?:", "")


def _example(field: Field, column: Column | None) -> Any:
    """The median, or the most frequent level, moved to where the contract allows it."""
    if field.kind == "boolean":
        return bool(field.median)
    if field.kind == "category":
        levels = [level for level in field.levels if column is None or column.values is None or level in column.values]
        return levels[0] if levels else column.values[0] if column is not None and column.values else None
    value = float(f"{field.median:.6g}")
    if column is not None:
        value = max(value, column.min) if column.min is not None else value
        value = min(value, column.max) if column.max is not None else value
        allowed = [float(one) for one in column.values or ()]
        value = value if not allowed or value in allowed else allowed[0]
    return int(value) if field.kind == "integer" else value
