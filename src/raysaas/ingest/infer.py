"""A use case from a file that nobody described: task, label, entity, time and columns, and every assumption in words.

Types are judged on the first rows and a stride through all the others; what one row can overturn (a constant, a unique
column, the classes of the label) is judged on all rows. Nothing here is final: the YAML is meant to be edited.
"""

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.ingest.casts import cast, day_first
from raysaas.ingest.document import to_yaml
from raysaas.ingest.formats import SourceFile, blocks, split
from raysaas.ingest.guess import FEW, Guess, cleaned, guess, present
from raysaas.ingest.roles import Seen, choose, is_hinted, task_of
from raysaas.ingest.sources import discover, identifier
from raysaas.records import Task
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

__all__ = ["infer", "to_yaml"]
SOURCE = "rows"
HEAD_ROWS = 5_000
STRIDE_ROWS = 15_000
_RESERVED = {"row_id", "tenant", "entity", "event_time", "known_at", "split", "label", "moment", "row_number"}
_SQL = {"hour": "hour", "weekday": "isodow"}


def infer(
    path: str | Path,
    name: str,
    *,
    label: str | None = None,
    entity: str | None = None,
    time: str | None = None,
    tenant: str | None = None,
) -> tuple[UseCase, list[str]]:
    """Describe the file (or glob, or URI) at ``path`` as the use case ``name``; the sentences say what was assumed.

    A column that is given is taken, whatever it looks like. Raises InputError for a file that cannot be read, a given
    column that is not there (naming the nearest), and a label that nothing can be learnt from.
    """
    location = str(path) if "://" in str(path) else str(Path(path).expanduser().absolute())
    files = discover(Source(path=location), None)
    given = {
        role: _find(files[0].header, column, role)
        for role, column in (("label", label), ("entity", entity), ("time", time), ("tenant", tenant))
        if column
    }
    _refuse_lists(files, given)
    file = _read(files, set(given.values()))
    if time and not file.guesses[given["time"]].is_time:
        raise InputError(
            f"--time {given['time']!r} holds {file.guesses[given['time']].type}, not times. Leave it out, "
            "or derive a time in the YAML."
        )
    roles = choose(file, given)
    if roles["label"] not in file.whole.column_names:  # chosen late: all of its values are needed
        file = _read(files, {*given.values(), str(roles["label"])}, said=file.said)
    task, positive = task_of(file, roles["label"])
    return _use_case(file, name, location, roles, task, positive), file.said


def _find(names: Iterable[str], wanted: str, role: str) -> str:
    names = list(names)
    loose = {name.lower(): name for name in names} | {identifier(name).lower(): name for name in names}
    if wanted in names:
        return wanted
    if wanted.lower() in loose:
        return loose[wanted.lower()]
    near = difflib.get_close_matches(wanted.lower(), loose, n=1, cutoff=0.4)
    hint = f"the nearest is {loose[near[0]]!r}" if near else f"it has: {', '.join(names[:20])}"
    raise InputError(f"--{role} {wanted!r} is no column of the file; {hint}.")


def _refuse_lists(files: list[SourceFile], given: Mapping[str, str]) -> None:
    for role, column in given.items():
        if what := next((file.holds[column] for file in files if column in file.holds), None):
            raise InputError(f"--{role} {column!r} holds {what}, not single values. Name another column.")


def _read(files: list[SourceFile], asked: set[str], said: Sequence[str] = ()) -> Seen:
    """One look at the head, then one pass for the stride and for whole columns that one row can overturn."""
    parts = [part for file in files for part in split(file, part_bytes=32 << 20)]
    first = next((block.table for part in parts for block in blocks(part) if block.table.num_rows), None)
    if first is None:
        raise InputError(f"{files[0].uri} has no readable row.")
    holds = {name: what for file in files for name, what in file.holds.items()}
    head = {name: _guess(name, first[name].slice(0, HEAD_ROWS), holds) for name in first.column_names}
    numbers = [name for name, found in head.items() if found.type in (ColumnType.number, ColumnType.integer)]
    asked = {*asked, first.column_names[-1]}
    needed = [n for n, found in head.items() if n not in holds and (n in asked or _telling(n, found))]
    samples, whole, num_rows, infinite = [first.slice(0, HEAD_ROWS)], [], 0, Counter[str]()
    expected = max(1, sum(file.num_bytes for file in files)) / max(1, first.nbytes) * first.num_rows
    step = max(1, math.ceil(expected / STRIDE_ROWS))
    for part in parts:
        for block in blocks(part):
            table = block.table
            whole.append(table.select([n for n in needed if n in table.column_names]))
            samples.append(table.take(pa.array(range(step // 2, table.num_rows, step), pa.int64())))
            num_rows += table.num_rows
            infinite.update({n: _num_infinite(table[n]) for n in numbers if n in table.column_names})
    sample = pa.concat_tables(samples, promote_options="permissive")
    kept = pa.concat_tables(whole, promote_options="permissive")
    names, nested = list(first.column_names), tuple({name: None for file in files for name in file.nested})
    guesses = {name: _guess(name, (kept if name in needed else sample)[name], holds) for name in names}
    return Seen(names, sample, kept, num_rows, guesses, list(said), nested, +infinite)


def _guess(name: str, column: pa.ChunkedArray, holds: Mapping[str, str]) -> Guess:
    return Guess(ColumnType.text, 0, 0, f"holds {holds[name]}") if name in holds else guess(name, column)


def _num_infinite(column: pa.ChunkedArray) -> int:
    return int(cast(column, ColumnType.number).infinite.sum())


def _telling(name: str, found: Guess) -> bool:
    """Whether rows that were not looked at could change what a column is used for."""
    odd = found.is_time or (found.unique and found.type is not ColumnType.number)
    return odd or bool(found.why_not) or found.distinct <= FEW or is_hinted(name)


def _use_case(
    file: Seen, name: str, path: str, roles: dict[str, str | None], task: Task, positive: str | None
) -> UseCase:
    keys, source = _keys(file.names), Source(path=path)
    for column in file.names:
        _declare(file, source, keys[column], column, roles, task)
    for role in ("entity", "time", "tenant"):
        if chosen := roles[role]:
            setattr(source, role, keys[chosen])
    if roles["time"]:
        _calendar(file, source, keys[str(roles["time"])], str(roles["time"]))
    features = [k for k, c in source.columns.items() if c.feature and c.type not in (ColumnType.text, ColumnType.time)]
    if len({*features, *source.derive} - {keys[c] for c in roles.values() if c}) < 1:
        unused = [said for said in file.said if "not used" in said][:5]
        raise InputError(f"No column is left to predict {roles['label']!r} from: {' '.join(unused)}")
    _say_flat(file, [keys[n] for n in file.nested if keys[n] in {*features, *source.derive} and n != roles["label"]])
    examples = Examples(source=SOURCE, label=keys[str(roles["label"])], positive=positive)
    title = f"{roles['label']} of {Path(path).name}"
    return UseCase(name=name, title=title, task=task, sources={SOURCE: source}, examples=examples)


def _keys(names: list[str]) -> dict[str, str]:
    """An identifier for each column: distinct whatever the case, as SQL has it, and none of the platform's own."""
    keys: dict[str, str] = {}
    taken = set(_RESERVED)
    for name in names:
        plain = identifier(name)
        key, n = plain, 1
        while key.lower() in taken:
            key, n = f"{plain.rstrip('_')}_{n if n > 1 else ''}", n + 1
        taken.add(key.lower())
        keys[name] = key
    return keys


def _declare(file: Seen, source: Source, key: str, name: str, roles: dict[str, str | None], task: Task) -> None:
    found = file.guesses[name]
    own = None if key == name else name
    role = next((role for role, column in roles.items() if column == name), None)
    if role is None and (found.why_not or found.is_time):
        why = found.why_not or "is a time, and times are no features by themselves"
        file.said.append(f"{name!r} is not used: it {why}.")
        return
    if found.strays and (role is None or (role == "label" and task is Task.regression)):
        comma = " with a decimal comma" if found.decimal_comma else ""
        file.said.append(
            f"{name!r} is read as a number{comma}: signs are cut off, words among its numbers count as missing."
        )
        source.derive[key] = cleaned(_seen_as(file.names, name), decimal_comma=found.decimal_comma)
        return
    kind = _declared_type(found, role, task, file.num_rows)
    source.columns[key] = Column(type=kind, column=own)
    if (num := file.infinite.get(name, 0)) and kind in (ColumnType.number, ColumnType.integer):
        values = "value" if num == 1 else "values"
        file.said.append(f"{name!r} holds {num:,} infinite {values}: rows with them will be refused.")


def _say_flat(file: Seen, keys: list[str]) -> None:
    if keys:
        listed = ", ".join(map(repr, keys[:5])) + (", ..." if len(keys) > 5 else "")
        file.said.append(f"Objects are read field by field, and requests give those fields flat: {listed}.")


def _seen_as(names: list[str], name: str) -> str:
    """How ``derive`` sees a column that the contract does not list."""
    first = next(n for n in names if identifier(n) == identifier(name))
    if first != name:
        raise InputError(f"Columns {first!r} and {name!r} become one name, {identifier(name)!r}: rename one of them.")
    return identifier(name)


def _declared_type(found: Guess, role: str | None, task: Task, num_rows: int) -> ColumnType:
    if role in ("entity", "tenant"):
        return ColumnType.text
    if role == "time":
        return ColumnType.time
    if role == "label" and task is Task.regression:
        return ColumnType.number
    if role == "label":
        return found.type if found.type is ColumnType.integer else ColumnType.category
    # A fraction may hide among rows that were not looked at.
    return ColumnType.number if found.type is ColumnType.integer and num_rows > HEAD_ROWS + STRIDE_ROWS else found.type


def _calendar(file: Seen, source: Source, key: str, name: str) -> None:
    """Hour and weekday of the time column, where they vary: what a time tells that does not grow for ever."""
    values = present(file.sample[name])
    order = day_first(values) if pa.types.is_string(values.type) else None
    times = cast(pa.chunked_array([values]), ColumnType.time, day_first=order).values
    for part, parts in (("hour", pc.hour(times)), ("weekday", pc.day_of_week(times))):
        if len(pc.unique(parts.drop_null())) > 1:
            source.derive[f"{key}_{part}"] = f'{_SQL[part]}("{key}")'
            file.said.append(f"'{key}_{part}' is derived from the time as a feature.")
