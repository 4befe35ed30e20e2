"""In which order the sources of a use case are read: those that others refer to first. Pure."""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from raysaas.errors import ConfigError
from raysaas.use_case import Source


def reading_order(sources: Mapping[str, Source]) -> list[str]:
    """Names of ``sources``, each after those that its ``references`` name, else in the order of conf.

    Raises ConfigError for a reference that names no other source, or that leads back to where it starts.
    """
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        graph[name] = {referred(name, key, target, sources)[0] for key, target in source.references.items()}
    try:
        ready = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        way = " -> ".join(reversed(error.args[1]))
        raise ConfigError(f"use_case.sources: references go in a circle, {way}: one of them must go.") from error
    done: list[str] = []
    for name in sources:
        done += [before for before in ready if before in _needs(name, graph) and before not in done]
    return done


def _needs(name: str, graph: Mapping[str, set[str]]) -> set[str]:
    return {name}.union(*(_needs(other, graph) for other in graph[name]))


def referred(name: str, key: str, target: str, sources: Mapping[str, Source]) -> tuple[str, str]:
    """Source and column that ``references.key=target`` of source ``name`` means. Raises ConfigError."""
    at = f"use_case.sources.{name}.references.{key}={target!r}"
    other, _, column = target.partition(".")
    if other not in sources or not column:
        raise ConfigError(f"{at} is not allowed: expected SOURCE.COLUMN with SOURCE one of {', '.join(sources)}.")
    known = [*sources[other].columns, *sources[other].derive]
    if known and column not in known:
        raise ConfigError(f"{at} names no column of {other}: expected one of {', '.join(known)}.")
    return other, column
