"""What shaped a training set besides its rows, so that building it again can be checked, and what changed be named."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

from raysaas.errors import ConfigError, NotFound
from raysaas.records import TrainingSet
from raysaas.stores.tables import Tables
from raysaas.use_case import UseCase


def definitions(use_case: UseCase) -> dict[str, str]:
    """A digest of each part of conf that shapes the rows: ``task``, ``examples``, ``sources.NAME``, ``views.NAME``."""
    parts = {"task": str(use_case.task), "examples": asdict(use_case.examples)}
    parts |= {f"sources.{name}": asdict(source) for name, source in use_case.sources.items()}
    parts |= {f"views.{name}": asdict(view) for name, view in use_case.views.items()}
    return {key: _digest(part) for key, part in parts.items()}


def _digest(part: object) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()[:16]


def check_same(was: TrainingSet, made: TrainingSet) -> None:
    """Raise ConfigError unless ``made`` has the rows that ``was`` had; the message names the parts of conf that differ.

    Conf may differ where that changes no row.
    """
    if made.content_hash == was.content_hash:
        return
    changed = _differing(was.definitions, made.definitions)
    parts = f"use_case.{', use_case.'.join(changed)} changed since" if changed else "the package makes them differently"
    raise ConfigError(
        f"{_naming(was)} ({was.num_rows} rows, content {was.content_hash[:12]}) cannot be built again: "
        f"{made.num_rows} rows came out, content {made.content_hash[:12]}; {parts}. Restore it, or give train.as_of a "
        "time."
    )


def _differing(was: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(key for key in was.keys() | now.keys() if was.get(key) != now.get(key))


def check_kept(was: TrainingSet, use_case: UseCase, tables: Tables) -> None:
    """Raise NotFound when a snapshot that ``was`` was built from is gone, ConfigError when a source is new since."""
    new = [name for name in use_case.sources if f"raw.{use_case.name}__{name}" not in was.snapshots]
    if new:
        raise ConfigError(f"{_naming(was)} cannot be built again: use_case.sources.{new[0]} was added since.")
    for table, snapshot in was.snapshots.items():
        if all(item["snapshot_id"] != snapshot for item in tables.snapshots(table)):
            raise NotFound(
                f"{_naming(was)} cannot be built again: snapshot {snapshot} of {table} is gone, because its rows were "
                "forgotten or old snapshots expired."
            )


def _naming(was: TrainingSet) -> str:
    return f"The training set of {was.use_case} of {was.known_at:%Y-%m-%d %H:%M:%S} UTC"
