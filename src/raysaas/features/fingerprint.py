"""Digests of feature definitions: equal while a feature of a view means the same."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from raysaas.stores.generations import OnlineService, OnlineView
from raysaas.stores.online import online_ttls, online_view
from raysaas.use_case import Source, UseCase, View


def online_service(use_case: UseCase, schemas: Mapping[str, pa.Schema]) -> OnlineService:
    """The online side of the views of ``use_case``, whose features have the given Arrow schemas."""
    views = tuple(_view(use_case, name, schema) for name, schema in schemas.items())
    content = sorted([view.name, view.ttl_s, sorted(view.features.items())] for view in views)
    return OnlineService(use_case.name, _digest([use_case.name, content]), views)


def _view(use_case: UseCase, name: str, schema: pa.Schema) -> OnlineView:
    full = online_view(use_case.name, name)
    ttl_s = online_ttls(use_case).get(full)
    features = {field.name: _digest([str(field.type), _meaning(use_case, name, field.name)])[:16] for field in schema}
    return OnlineView(full, f"{full}@{_digest([ttl_s, sorted(features.items())])[:12]}", ttl_s, features)


def _meaning(use_case: UseCase, name: str, feature: str) -> Any:
    """What shapes a feature's values besides its name, which holds its column, function and window."""
    view, examples = use_case.views.get(name, View()), use_case.examples
    made = {**view.ratios, **view.differences}
    parts = next((parts for key, parts in made.items() if feature in (key, f"{name}_{key}")), [])
    how = [view.source, parts] if view.source else [examples.source, examples.lead, examples.label]
    return [how, _rows(use_case.sources[view.source or examples.source], [feature, *parts])]


def _rows(source: Source, features: Sequence[str]) -> Any:
    """The columns that ``features`` may be made of, and what says whose rows these are, of when, and which count."""
    context = [source.entity, source.tenant, source.time, source.known_at]
    used = {
        name
        for name in {*source.columns, *source.derive}
        if name in context or any(name in feature for feature in features)
    }
    columns = {name: [column.type, column.column] for name, column in source.columns.items() if name in used}
    derived = {name: text for name, text in source.derive.items() if name in used}
    return [context, columns, derived, asdict(source.duplicates)]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
