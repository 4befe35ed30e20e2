"""A source's contract bound to the columns that a file has: names matched, missing ones named, types inferred. Pure."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import ConfigError, InputError
from raysaas.ingest.actions import validate_rules
from raysaas.ingest.casts import cast, day_first, flat, spelled_as_number
from raysaas.ingest.sources import identifier
from raysaas.stores.journal import KNOWN_AT, TENANT
from raysaas.use_case import Column, ColumnType, Keep, Source

# Platform column -> the setting of Source that names the column it is made from.
ROLES = {"tenant": "tenant", "entity": "entity", "event_time": "time", "known_at": "known_at"}
_CANDIDATES = (ColumnType.boolean, ColumnType.number, ColumnType.time)
_DATE = r"^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}"


@dataclass(frozen=True, slots=True)
class Binding:
    """``names``: key of the contract -> column of the file; ``ignored``: identifier -> column that nothing asks for."""

    names: Mapping[str, str]
    ignored: Mapping[str, str]
    missing: tuple[str, ...]


def bind(source: Source, header: Iterable[str]) -> Binding:
    """Match the contract's columns with a file's. Raises InputError for a column that must be there and is not."""
    header = list(header)
    by_identifier = {identifier(name): name for name in reversed(header)}
    names: dict[str, str] = {}
    missing = []
    needed = {getattr(source, setting) for setting in ROLES.values()} | set(source.unique)
    for key, spec in source.columns.items():
        wanted = spec.column or key
        name = wanted if wanted in header else by_identifier.get(wanted)
        if name is not None:
            names[key] = name
        elif spec.required or key in needed:
            raise InputError(f"The file has no column {wanted!r} that the contract requires{_nearest(wanted, header)}.")
        else:
            missing.append(wanted)
    taken = {*names.values(), TENANT, KNOWN_AT}
    ignored = {i: by_identifier[i] for i in map(identifier, header) if by_identifier[i] not in taken}
    return Binding(names, ignored, tuple(missing))


def _nearest(wanted: str, header: Iterable[str]) -> str:
    lower = {name.lower(): name for name in header}
    near = difflib.get_close_matches(wanted.lower(), lower, n=1, cutoff=0.5)
    return f"; the nearest one is {lower[near[0]]!r}" if near else f"; it has: {', '.join(lower.values())}"


def validate(source: Source, name: str) -> None:
    """Check that the contract names only columns and rules it has. Raises ConfigError."""
    known = [*source.columns, *source.derive]
    for setting in ("entity", "tenant", "time", "known_at"):
        key = getattr(source, setting)
        if key is not None and key not in known:
            raise ConfigError(f"use_case.sources.{name}.{setting}={key!r} names no column{_nearest(key, known)}.")
    by = [source.duplicates.by] if source.duplicates.by else []
    for setting, keys in (("unique", source.unique), ("references", source.references), ("duplicates.by", by)):
        for key in keys:
            if key not in known:
                raise ConfigError(f"use_case.sources.{name}.{setting}: {key!r} names no column{_nearest(key, known)}.")
    if source.duplicates.key in (Keep.last, Keep.latest) and not source.unique:
        raise ConfigError(
            f"use_case.sources.{name}.duplicates.key={source.duplicates.key} needs unique: set its columns."
        )
    if source.max_age_hours is not None and not source.time:
        raise ConfigError(f"use_case.sources.{name}.max_age_hours needs the time of a row: set time to a column.")
    validate_rules(source, name, known)
    for key in known:
        if key == "row_id" or (key in ROLES and getattr(source, ROLES[key]) != key):
            raise ConfigError(
                f"use_case.sources.{name} has a column {key!r}, a name the platform makes itself: set "
                f"{ROLES.get(key, 'entity')}: {key}, or give the column another key and `column: {key}`."
            )


def candidates(table: pa.Table) -> dict[str, set[ColumnType]]:
    """Types that every value of a column fits; those of several blocks are intersected, then given to ``infer``."""
    return {name: _fitting(flat(table[name])) for name in table.column_names}


def _fitting(values: pa.Array) -> set[ColumnType]:
    if pa.types.is_boolean(values.type):
        return {ColumnType.boolean}
    if pa.types.is_temporal(values.type):
        return {ColumnType.time}
    if not pa.types.is_string(values.type):
        return {ColumnType.number}
    return {kind for kind in _CANDIDATES if _fits(values, kind)}


def _fits(values: pa.Array, kind: ColumnType) -> bool:
    text = cast(pa.chunked_array([values]), ColumnType.text).values.drop_null()
    if kind is ColumnType.boolean:
        return bool(pc.all(pc.is_in(pc.utf8_lower(text), value_set=pa.array(["true", "false"]))).as_py())
    if kind is ColumnType.number:
        return bool(pc.all(spelled_as_number(text)).as_py())
    if kind is ColumnType.time and not pc.all(pc.match_substring_regex(text, _DATE)).as_py():
        return False
    # Slashed dates are tried as month first: whether that is right is settled on the whole file.
    return not cast(pa.chunked_array([text]), kind, day_first=False).bad.any()


def infer(source: Source, types: Mapping[str, set[ColumnType]]) -> Source:
    """Return ``source`` with every column of the file declared by the first type it fits, else as a category."""
    columns = {}
    for name, kinds in types.items():
        kind = ColumnType.category if kinds >= set(_CANDIDATES) else next((k for k in _CANDIDATES if k in kinds), None)
        columns[identifier(name)] = Column(type=kind or ColumnType.category, column=name)
    return replace(source, columns=columns)


def date_orders(source: Source, table: pa.Table) -> dict[str, bool]:
    """For each time column of text: whether ``03/04/2025`` has the day first, where its values tell."""
    names = bind(source, table.column_names).names
    orders: dict[str, bool] = {}
    for key, name in names.items():
        column = flat(table[name])
        if source.columns[key].type is ColumnType.time and pa.types.is_string(column.type):
            order = day_first(pc.utf8_trim_whitespace(column))
            orders |= {} if order is None else {key: order}
    return orders
