"""A use case of one source written as commented YAML, one line per column, that Hydra and OmegaConf read back equal."""

import math
import re
from typing import Any

import yaml

from raysaas.use_case import Column, UseCase


class _Dumper(yaml.SafeDumper):
    """Quotes text that OmegaConf would read as a number and PyYAML would not: ``1e5``."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), None)


def to_yaml(use_case: UseCase, assumptions: list[str]) -> str:
    """The use case as commented YAML for ``conf/use_case/NAME.yaml``; ``OmegaConf`` reads it back equal."""
    examples, source_name = use_case.examples, use_case.examples.source
    source = use_case.sources[source_name]
    example = {"source": source_name, "label": examples.label, "positive": examples.positive}
    run = f"raysaas run pipeline use_case={use_case.name}"
    lines = [
        f"# Written by `raysaas init`; edit what is wrong, then `{run}`. What was assumed:",
        *(f"#   {_one_line(sentence)}" for sentence in assumptions),
        f"name: {_flow(use_case.name)}",
        f"title: {_flow(use_case.title)}",
        f"task: {use_case.task}",
        "sources:",
        f"  {source_name}:",
        f"    path: {_flow(source.path)}",
    ]
    roles = {key: getattr(source, key) for key in ("entity", "tenant", "time")}
    lines += [f"    {key}: {_flow(value)}" for key, value in roles.items() if value]
    lines += ["    columns:  # type: number integer boolean category time text; also required, min, max, values"]
    lines += [f"      {_flow(key)}: {_flow(_column(column))}" for key, column in source.columns.items()]
    if source.derive:
        lines += ["    derive:  # DuckDB expressions over the columns of the file"]
        lines += [f"      {_flow(key)}: {_flow(expression)}" for key, expression in source.derive.items()]
    lines += [f"examples: {_flow({key: value for key, value in example.items() if value})}", ""]
    return "\n".join(lines)


def _column(column: Column) -> dict[str, str]:
    named = {} if column.column is None else {"column": column.column}
    return {"type": str(column.type), **named}


def _one_line(text: str) -> str:
    return "".join(ch if ch.isprintable() else " " for ch in text)


def _flow(value: Any) -> str:
    """``value`` on one line of YAML, with OmegaConf's interpolations escaped."""
    text = yaml.dump(
        _escaped(value), Dumper=_Dumper, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value.replace("${", "\\${") if isinstance(value, str) else value
