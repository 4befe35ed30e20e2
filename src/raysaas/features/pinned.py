"""The training set that a job learns from: the one that is there already, a new one, or an earlier one built again."""

import hashlib
import json
import re
from dataclasses import asdict
from datetime import UTC, datetime

import pyarrow as pa

from raysaas.errors import ConfigError
from raysaas.features.build import training_set
from raysaas.features.rebuild import check_kept
from raysaas.records import TrainingSet, plain, restored
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables

_ORDER = [("event_time", "ascending"), ("row_id", "ascending")]
_VERSION = re.compile(r"v?(\d{1,9})")


def pinned(settings: Settings, tables: Tables, ledger: Ledger, *, now: datetime) -> tuple[TrainingSet, pa.Table]:
    """Return the training set of the newest data, built only when sources, outcomes or definitions changed.

    With ``train.as_of`` an earlier one is built again. A model version (``v3``, ``3``) names the very set that it
    learnt from: from the same snapshots, verified by content hash. A time (ISO; UTC unless it says otherwise) names
    what was known then, as ``raw.pins`` defines it. Raises ConfigError for a bad value or when conf no longer gives the
    version's rows, NotFound for a version that is not there or whose snapshots are gone.
    """
    if settings.train.as_of is None:
        return _newest(settings, tables, ledger, now)
    version = _VERSION.fullmatch(settings.train.as_of.strip())
    if version is None:
        return training_set(settings, tables, as_of=_moment(settings.train.as_of, now), now=now)
    from raysaas.stores.registry import Registry  # takes a second to import

    was = Registry(settings.storage).training_set(settings.use_case.name, int(version[1]))
    check_kept(was, settings.use_case, tables)
    return training_set(settings, tables, now=now, was=was)


def _moment(text: str, now: datetime) -> datetime:
    expected = "a model version (v3) or an ISO time that is past (2026-01-31T12:00)"
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(f"train.as_of={text!r} is not allowed: expected {expected}.") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment > now:
        raise ConfigError(f"train.as_of={text!r} is not allowed: expected {expected}; it is {now:%Y-%m-%dT%H:%M} now.")
    return moment


def _newest(settings: Settings, tables: Tables, ledger: Ledger, now: datetime) -> tuple[TrainingSet, pa.Table]:
    key, made_from = f"training/{settings.use_case.name}", _fingerprint(settings, tables)
    known = ledger.get_state(key)
    if known and known["made_from"] == made_from:
        training = restored(known["training"])
        # By name: the Iceberg table also has the columns of earlier training sets, all null now.
        table = tables.read(training.table, snapshot=training.snapshot_id, columns=known["columns"])
        return training, table.select(known["columns"]).sort_by(_ORDER)
    training, table = training_set(settings, tables, as_of=None, now=now)
    ledger.set_state(key, {"made_from": made_from, "training": plain(training), "columns": table.column_names})
    return training, table.sort_by(_ORDER)


def _fingerprint(settings: Settings, tables: Tables) -> str:
    """Equal while use case, feature settings and all versions it is made from stay the same."""
    case = settings.use_case
    names = [f"raw.{case.name}__{source}" for source in case.sources] + ["log.decisions", "log.outcomes"]
    versions = {name: tables.current(name) for name in names}
    text = json.dumps([asdict(case), asdict(settings.features), versions], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
