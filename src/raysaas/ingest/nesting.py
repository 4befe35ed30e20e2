"""Objects inside rows as columns of their own, alike in JSON Lines and Parquet.

``{"user": {"age": 30}}`` has a column ``user.age``, as a struct has. Lists, maps and what else is no single value stay
whole and are marked in ``SourceFile.holds``. Which fields there are is judged on the first lines, or by the schema.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from raysaas.ingest.formats import SourceFile

_MAX_DEPTH = 16
_MANY_KEYS = 100
Leaf = tuple[tuple[str, ...], str]


def with_leaves(file: SourceFile, leaves: Sequence[Leaf]) -> SourceFile:
    """Return ``file`` with a column for each leaf."""
    names = [".".join(path) for path, _ in leaves]
    holds = {name: what for name, (_, what) in zip(names, leaves, strict=True) if what}
    return replace(file, header=tuple(names), paths=tuple(path for path, _ in leaves), holds=holds)


def parsed(line: str) -> dict[str, Any]:
    """The object that a line of JSON says; empty where it is too deep for Python."""
    try:
        return dict(json.loads(line, parse_int=str, parse_float=str))
    except RecursionError:
        return {}


def json_leaves(objects: Sequence[Mapping[str, Any]], prefix: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The paths of all fields of ``objects``, each with what it holds when that is no single value."""
    fields: dict[str, list[Any]] = {}
    for key, value in (pair for found in objects for pair in found.items()):
        fields.setdefault(key, []).append(value)
    for key, values in fields.items():
        there = [value for value in values if value is not None]
        inside = [value for value in there if isinstance(value, dict)]
        if inside and len(inside) == len(there) and len(prefix) < _MAX_DEPTH and not _is_map(inside):
            yield from json_leaves(inside, (*prefix, key))
        else:
            lists = any(isinstance(value, list) for value in there)
            yield (*prefix, key), "lists" if lists else "objects" if inside else ""


def _is_map(objects: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the keys are data themselves: many of them, and few in each object."""
    num_keys = len({key for found in objects for key in found})
    return num_keys > _MANY_KEYS and num_keys * len(objects) > 4 * sum(map(len, objects))


def arrow_leaves(fields: Iterable[pa.Field], prefix: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The paths of all fields that are no structs, each with what it holds when that is no single value."""
    for field in fields:
        path = (*prefix, field.name)
        if pa.types.is_struct(field.type):
            yield from arrow_leaves(field.type, path)
        else:
            nested = "lists" if pa.types.is_nested(field.type) else ""
            yield path, "maps" if pa.types.is_map(field.type) else nested
