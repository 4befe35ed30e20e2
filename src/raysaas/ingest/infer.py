"""A use case from a file that nobody described: its task, label, entity, time and columns, and every assumption in words.

Types are judged on the first rows and a stride through all the others; what one row can overturn (a constant, a unique
column, the classes of the label) is judged on all rows. Nothing here is final: the YAML it writes is meant to be edited.
"""

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from raysaas.errors import InputError
from raysaas.ingest.formats import SourceFile, blocks, split
from raysaas.ingest.guess import FEW, Guess, cleaned, guess, named_id, named_time, present
from raysaas.ingest.sources import discover, identifier
from raysaas.records import Task
from raysaas.settings import Column, ColumnType, Examples, Source, UseCase

SOURCE = "rows"
HEAD_ROWS = 5_000
STRIDE_ROWS = 15_000
_RESERVED = {"row_id", "tenant", "entity", "event_time", "known_at", "split", "label", "moment", "row_number"}
_LABELS = ("label", "target", "y", "class", "churn", "churned", "outcome", "response", "is_churn", "is_fraud", "fraud", "default",
           "survived", "converted", "exited", "attrition", "result", "income", "species", "quality")
_TENANTS = ("tenant", "tenant_id", "org", "org_id", "organization_id", "organisation_id", "workspace_id", "company_id")
_PEOPLE = ("customer", "user", "client", "account", "member", "patient", "device", "entity", "subscriber")
_NOT_THE_TIME = ("birth", "dob", "expir", "due", "end", "close", "cancel", "churn", "last", "until")
_POSITIVE = ("1", "yes", "true", "y", "t", "churned", "churn", "positive", "pos", "fraud", "bad", "default", "exited")


@dataclass(slots=True)
class _File:
    """What was read: ``sample`` has some rows of all columns, ``whole`` all rows of the columns that need them."""

    names: list[str]
    sample: pa.Table
    whole: pa.Table
    num_rows: int
    guesses: dict[str, Guess]
    said: list[str] = field(default_factory=list)

    def all_of(self, name: str) -> pa.ChunkedArray:
        return self.whole[name] if name in self.whole.column_names else self.sample[name]


def infer(path: str | Path, name: str, *, label: str | None = None, entity: str | None = None, time: str | None = None,
          tenant: str | None = None) -> tuple[UseCase, list[str]]:
    """Describe the file (or glob, or URI) at ``path`` as the use case ``name``; the sentences say what was assumed.

    A column that is given is taken, whatever it looks like. Raises InputError for a file that cannot be read, a given
    column that is not there (naming the nearest), and a label that nothing can be learnt from.
    """
    location = str(path) if "://" in str(path) else str(Path(path).expanduser().absolute())
    files = discover(Source(path=location), None)
    given = {role: _find(files[0].header, column, role) for role, column in
             (("label", label), ("entity", entity), ("time", time), ("tenant", tenant)) if column}
    file = _read(files, set(given.values()))
    roles = _roles(file, given)
    task, positive = _task(file, roles["label"])
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


def _read(files: list[SourceFile], asked: set[str]) -> _File:
    """One look at the head, then one pass for the stride and for whole columns that one row can overturn."""
    parts = [part for file in files for part in split(file, part_bytes=32 << 20)]
    first = next((block.table for part in parts for block in blocks(part) if block.table.num_rows), None)
    if first is None:
        raise InputError(f"{files[0].uri} has no readable row.")
    head = {name: guess(name, first[name].slice(0, HEAD_ROWS)) for name in first.column_names}
    needed = [name for name, found in head.items() if name in asked or found.why_not or found.unique or found.is_time
              or found.distinct <= FEW or _hinted(name) or name == first.column_names[-1]]
    samples, whole, num_rows = [first.slice(0, HEAD_ROWS)], [], 0
    expected = max(1, sum(file.num_bytes for file in files)) / max(1, first.nbytes) * first.num_rows
    step = max(1, math.ceil(expected / STRIDE_ROWS))
    for part in parts:
        for block in blocks(part):
            table = block.table
            whole.append(table.select([n for n in needed if n in table.column_names]))
            samples.append(table.take(pa.array(range(step // 2, table.num_rows, step), pa.int64())))
            num_rows += table.num_rows
    sample = pa.concat_tables(samples, promote_options="permissive")
    kept = pa.concat_tables(whole, promote_options="permissive")
    guesses = {name: guess(name, kept[name] if name in needed else sample[name]) for name in first.column_names}
    return _File(list(first.column_names), sample, kept, num_rows, guesses)


def _hinted(name: str) -> bool:
    return identifier(name).lower() in _LABELS


def _roles(file: _File, given: dict[str, str]) -> dict[str, str | None]:
    roles: dict[str, str | None] = dict(given)
    for role, choose in (("label", _label), ("time", _time), ("tenant", _tenant), ("entity", _entity)):
        if role not in roles:
            roles[role] = choose(file, {column for column in roles.values() if column})
    return roles


def _label(file: _File, taken: set[str]) -> str:
    free = {name: found for name, found in file.guesses.items() if name not in taken and found.distinct > 1}
    by_name = sorted((name for name in free if _hinted(name)), key=lambda n: _LABELS.index(identifier(n).lower()))
    fitting = [name for name in file.names if name in free and not free[name].why_not and not free[name].is_time]
    if not by_name and not fitting:
        raise InputError("No column can be the label: all are constant, ids, times or free text. Name one with --label.")
    chosen = by_name[0] if by_name else fitting[-1]
    why = "by its name" if by_name else "because it is the last column that can be"
    file.said.append(f"The label is {chosen!r}, {why}; --label COL takes another.")
    return chosen


def _time(file: _File, taken: set[str]) -> str | None:
    times = [n for n, found in file.guesses.items() if found.is_time and n not in taken and found.present >= 0.98 * file.num_rows]
    times = [n for n in times if found_words(n, _NOT_THE_TIME) is None]
    times.sort(key=lambda n: (not named_time(n), -file.guesses[n].distinct))
    if not times:
        file.said.append("No column says when a row happened, so rows are held back by hash, not by time; --time COL names one.")
        return None
    file.said.append(f"Rows happened at {times[0]!r}, so the latest are held back; --time COL takes another.")
    return times[0]


def found_words(name: str, words: Iterable[str]) -> str | None:
    """The first of ``words`` that is in ``name``, whatever the case."""
    return next((word for word in words if word in name.lower()), None)


def _tenant(file: _File, taken: set[str]) -> str | None:
    found = next((n for n in file.names if n.lower() in _TENANTS and n not in taken), None)
    file.said.append(f"Rows belong to the tenant in {found!r}." if found else
                     "No column names a tenant, so all rows belong to the tenant 'default'; --tenant COL names one.")
    return found


def _entity(file: _File, taken: set[str]) -> str | None:
    ids = [n for n, found in file.guesses.items() if n not in taken and found.is_id]
    ids.sort(key=lambda n: (not file.guesses[n].unique, not named_id(n), found_words(n, _PEOPLE) is None))
    if not ids:
        file.said.append("No column identifies a row, so each row is an entity of its own; --entity COL names one.")
        return None
    file.said.append(f"The entity is {ids[0]!r}; --entity COL takes another.")
    return ids[0]


def _task(file: _File, label: str | None) -> tuple[Task, str | None]:
    """Task and positive label, from all values of the label."""
    values = present(file.all_of(str(label)))
    counts = {str(_plain(item["values"])): item["counts"] for item in pc.value_counts(values).to_pylist()} if len(values) else {}
    if len(counts) < 2:
        only = f"only the value {next(iter(counts))!r}" if counts else "no value at all"
        raise InputError(f"The label {label!r} has {only}: there is nothing to learn. Name another column with --label.")
    if missing := file.num_rows - len(values):
        file.said.append(f"{missing:,} rows have no label and are left out of training.")
    found = file.guesses[str(label)]
    number = found.type in (ColumnType.number, ColumnType.integer) or found.strays or _numeric_text(values)
    if len(counts) == 2:
        positive = min(counts, key=lambda value: (_rank(value), counts[value]))
        file.said.append(f"The task is binary: {label!r} has two values, and {positive!r} is the positive one.")
        return Task.binary, positive
    if number and not (_whole(counts) and len(counts) <= min(FEW, len(values) / 3)):
        file.said.append(f"The task is regression: {label!r} has {len(counts):,} distinct numbers; set task: multiclass to make "
                         "them classes.")
        return Task.regression, None
    if not number and len(counts) > max(FEW, min(200, len(values) // 10)):
        raise InputError(f"The label {label!r} has {len(counts):,} different words: too many to be classes. Name another with "
                         "--label.")
    more = f" (whole numbers, at most {FEW} of them); set task: regression to predict the number" if number else ""
    file.said.append(f"The task is multiclass: {label!r} has {len(counts)} classes{more}.")
    return Task.multiclass, None


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _rank(value: str) -> int:
    return _POSITIVE.index(value.lower()) if value.lower() in _POSITIVE else len(_POSITIVE)


def _whole(counts: Iterable[str]) -> bool:
    return all(float(value.replace(",", "")).is_integer() for value in counts if _is_number(value))


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value.replace(",", "")))
    except ValueError:
        return False


def _numeric_text(values: pa.Array) -> bool:
    return all(_is_number(str(value)) for value in values.slice(0, 100).to_pylist())


def _use_case(file: _File, name: str, path: str, roles: dict[str, str | None], task: Task, positive: str | None) -> UseCase:
    keys, source = _keys(file.names), Source(path=path)
    for column in file.names:
        _declare(file, source, keys[column], column, roles, task)
    for role in ("entity", "time", "tenant"):
        if chosen := roles[role]:
            setattr(source, role, keys[chosen])
    if roles["time"]:
        _calendar(file, source, keys[str(roles["time"])])
    features = [k for k, c in source.columns.items() if c.feature and c.type not in (ColumnType.text, ColumnType.time)]
    if len({*features, *source.derive} - {keys[c] for c in roles.values() if c}) < 1:
        raise InputError(f"No column is left to predict {roles['label']!r} from: {' '.join(file.said)}")
    examples = Examples(source=SOURCE, label=keys[str(roles["label"])], positive=positive)
    return UseCase(name=name, title=f"{roles['label']} of {Path(path).name}", task=task, sources={SOURCE: source}, examples=examples)


def _keys(names: list[str]) -> dict[str, str]:
    """An identifier for each column: distinct without regard to case, as SQL has none, and none of the platform's own."""
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


def _declare(file: _File, source: Source, key: str, name: str, roles: dict[str, str | None], task: Task) -> None:
    found = file.guesses[name]
    own = None if key == name else name
    role = next((role for role, column in roles.items() if column == name), None)
    if role is None and (found.why_not or found.is_time):
        why = found.why_not or "is a time, and times are no features by themselves"
        file.said.append(f"{name!r} is not used: it {why}.")
        return
    if found.strays and (role is None or (role == "label" and task is Task.regression)):
        file.said.append(f"{name!r} is read as a number: signs are cut off, words among its numbers count as missing.")
        source.derive[key] = cleaned(_seen_as(file.names, name))
        return
    source.columns[key] = Column(type=_declared_type(found, role, task), column=own)


def _seen_as(names: list[str], name: str) -> str:
    """How ``derive`` sees a column that the contract does not list."""
    first = next(n for n in names if identifier(n) == identifier(name))
    if first != name:
        raise InputError(f"Columns {first!r} and {name!r} become the same name {identifier(name)!r}: rename one of them.")
    return identifier(name)


def _declared_type(found: Guess, role: str | None, task: Task) -> ColumnType:
    if role in ("entity", "tenant"):
        return ColumnType.text
    if role == "time":
        return ColumnType.time
    if role == "label" and task is Task.regression:
        return ColumnType.number
    if role == "label":
        return found.type if found.type is ColumnType.integer else ColumnType.category
    return found.type


def _calendar(file: _File, source: Source, key: str) -> None:
    """Hour and weekday of the time column, where they vary: what a time tells that does not grow for ever."""
    if file.guesses[next(n for n in file.names if n == (source.columns[key].column or key))].distinct < 2:
        return
    source.derive |= {f"{key}_hour": f'hour("{key}")', f"{key}_weekday": f'isodow("{key}")'}
    file.said.append(f"'{key}_hour' and '{key}_weekday' are derived from the time as features.")


def to_yaml(use_case: UseCase, assumptions: list[str]) -> str:
    """The use case as commented YAML for ``conf/use_case/NAME.yaml``; ``OmegaConf`` reads it back equal."""
    source = use_case.sources[SOURCE]
    roles = {key: getattr(source, key) for key in ("entity", "tenant", "time") if getattr(source, key)}
    examples = {key: value for key, value in (("source", SOURCE), ("label", use_case.examples.label),
                                              ("positive", use_case.examples.positive)) if value}
    lines = ["# Written by `raysaas init`. What was assumed; edit what is wrong, then `raysaas run pipeline "
             f"use_case={use_case.name}`:", *(f"#   {_one_line(sentence)}" for sentence in assumptions),
             f"name: {_flow(use_case.name)}", f"title: {_flow(use_case.title)}", f"task: {use_case.task}", "sources:",
             f"  {SOURCE}:", f"    path: {_flow(source.path)}", *(f"    {key}: {_flow(value)}" for key, value in roles.items()),
             "    columns:  # type: number, integer, boolean, category, time or text; also required, min, max, values, feature: false",
             *(f"      {_flow(key)}: {_flow(_column(column))}" for key, column in source.columns.items())]
    if source.derive:
        lines += ["    derive:  # DuckDB expressions over the columns of the file"]
        lines += [f"      {_flow(key)}: {_flow(expression)}" for key, expression in source.derive.items()]
    return "\n".join([*lines, f"examples: {_flow(examples)}", ""])


def _column(column: Column) -> dict[str, str]:
    named = {} if column.column is None else {"column": column.column}
    return {"type": str(column.type), **named}


def _one_line(text: str) -> str:
    return "".join(ch if ch.isprintable() else " " for ch in text)


def _flow(value: Any) -> str:
    """``value`` on one line of YAML, with OmegaConf's interpolations escaped."""
    text = yaml.safe_dump(_escaped(value), default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
