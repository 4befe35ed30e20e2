"""Training-serving skew: what decisions were made on, against what the offline side says it should have been.

A decision by entity names the online rows that it read, with their event times. Those rows are made again from the raw
snapshots that were there when it was decided, and compared value by value.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from pyiceberg.expressions import And, EqualTo, In, NotNull

from raysaas.features.definitions import KEYS, STAMP
from raysaas.features.fingerprint import online_service
from raysaas.features.raw import pins, raw
from raysaas.features.views import schema_of, view_rows
from raysaas.settings import Settings
from raysaas.stores.generations import plain_name
from raysaas.stores.tables import Tables

_LOG, _COLUMNS = "log.decisions", ["id", "tenant", "entity", "inputs", "time", "features_at", "given"]
_EXAMPLES, _BATCH = 5, 1_000
Row = dict[str, Any]


@dataclass(slots=True)
class FeatureSkew:
    """How often a feature was served with another value; ``examples`` are decision ids."""

    num_compared: int = 0
    num_different: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Share of differing values."""
        return self.num_different / self.num_compared if self.num_compared else 0.0


@dataclass(frozen=True, slots=True)
class Skew:
    """A sample of decisions by entity, compared. ``num_redefined`` were made on features that conf defines otherwise
    by now: they are not compared."""

    num_decisions: int = 0
    num_redefined: int = 0
    features: Mapping[str, FeatureSkew] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Share of differing values over all features."""
        compared = sum(feature.num_compared for feature in self.features.values())
        return sum(feature.num_different for feature in self.features.values()) / compared if compared else 0.0

    def summary(self) -> dict[str, Any]:
        """Counts, the rate, and the features that differed anywhere, as JSON-ready values."""
        differing = {name: asdict(one) for name, one in self.features.items() if one.num_different}
        return {"decisions": self.num_decisions, "redefined": self.num_redefined, "rate": self.rate} | (
            {"features": differing} if differing else {}
        )


def skew(settings: Settings, tables: Tables, sample: int = 1_000) -> Skew:
    """Compare the newest ``sample`` shipped decisions by entity with the offline side.

    A value that the request gave itself is left out. Numbers must be equal to the last bit; NaN and null are the same.
    """
    found: dict[str, FeatureSkew] = defaultdict(FeatureSkew)
    redefined: set[str] = set()
    decisions = _decisions(settings, tables, sample)
    for snapshots, group in _by_snapshots(settings, tables, decisions):
        for start in range(0, len(group), _BATCH):
            _compare(settings, tables, snapshots, group[start : start + _BATCH], found, redefined)
    return Skew(len(decisions), len(redefined), dict(sorted(found.items())))


def _decisions(settings: Settings, tables: Tables, sample: int) -> list[Row]:
    if not tables.exists(_LOG) or "features_at" not in tables.schema(_LOG).names:
        return []
    mine = And(EqualTo("use_case", settings.use_case.name), NotNull("features_at"))
    table = tables.read(_LOG, where=mine, columns=_COLUMNS)
    rows: list[Row] = table.sort_by([("id", "descending")]).slice(0, sample).to_pylist()
    for row in rows:
        row.update({name: json.loads(row[name]) if row[name] else [] for name in ("inputs", "features_at", "given")})
    return rows


def _by_snapshots(
    settings: Settings, tables: Tables, decisions: Sequence[Row]
) -> Iterator[tuple[dict[str, int], list[Row]]]:
    """The raw snapshots that were the newest when decisions were made, and those decisions."""
    case = settings.use_case
    commits = sorted(
        snapshot["committed_at"] for name in case.sources for snapshot in tables.snapshots(f"raw.{case.name}__{name}")
    )
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in decisions:
        groups[sum(commit <= row["time"] for commit in commits)].append(row)
    for group in groups.values():
        yield pins(case, tables, max(row["time"] for row in group)), group


def _compare(
    settings: Settings, tables: Tables, snapshots: Mapping[str, int], decisions: Sequence[Row],
    found: dict[str, FeatureSkew], redefined: set[str],
) -> None:  # fmt: skip
    case, latest = settings.use_case, max(row["time"] for row in decisions)
    among = And(*(In(key, {row[key] for row in decisions}) for key in KEYS))
    asks = _asks(decisions)
    rows = dict(view_rows(case, raw(case, tables, latest, snapshots, among), asks, settings.features))
    service = online_service(case, {name: schema_of(table) for name, table in rows.items()})
    for view, table in zip(service.views, rows.values(), strict=True):
        offline = _by_key(table)
        for row in decisions:
            for name, moment in row["features_at"].items():
                if plain_name(name) != view.name:
                    continue
                if name not in (view.name, view.rows):
                    redefined.add(row["id"])
                    continue
                _add(row, offline.get((row["tenant"], row["entity"], moment), []), view.features, found)


def _asks(decisions: Sequence[Row]) -> pa.Table:
    """Every (tenant, entity, event time) that a decision read."""
    keys = sorted({(row["tenant"], row["entity"], t) for row in decisions for t in row["features_at"].values()})
    tenants, entities, times = zip(*keys, strict=True)
    stamps = pa.array(times, pa.int64()).cast(STAMP)
    return pa.table({"tenant": list(tenants), "entity": list(entities), "event_time": stamps})


def _by_key(table: pa.Table) -> dict[tuple[str, str, int], list[Row]]:
    """Rows by tenant, entity and event time in microseconds, in the order in which they became known."""
    table = table.sort_by("known_at")
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row, moment in zip(table.to_pylist(), table["event_time"].cast(pa.int64()).to_pylist(), strict=True):
        found[row["tenant"], row["entity"], moment].append(row)
    return found


def _add(row: Row, offline: Sequence[Row], features: Mapping[str, str], found: dict[str, FeatureSkew]) -> None:
    known = [candidate for candidate in offline if candidate["known_at"] <= row["time"]]
    for name in (features.keys() & row["inputs"].keys()) - set(row["given"]):
        result = found[name]
        result.num_compared += 1
        if not known or not _same(row["inputs"][name], known[-1][name]):
            result.num_different += 1
            if len(result.examples) < _EXAMPLES:
                result.examples.append(row["id"])


def _same(served: Any, offline: Any) -> bool:
    left, right = _plain(served), _plain(offline)
    return bool(left == right)


def _plain(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return float(value) if isinstance(value, bool | int | float) else value


def publish_rate(use_case: str, rate: float) -> None:
    """Set the gauge ``raysaas_feature_skew``, the share of served feature values that differ from the stored ones."""
    from ray.util.metrics import Gauge

    gauge = Gauge("raysaas_feature_skew", "Share of served feature values that differ.", tag_keys=("use_case",))
    gauge.set(rate, {"use_case": use_case})
