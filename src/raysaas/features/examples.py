"""What one training example is: who, when, and the label that only became known later."""

from datetime import UTC, datetime, timedelta
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.asof import window_aggregates
from raysaas.features.definitions import CONTEXT, KEYS, STAMP
from raysaas.features.raw import Raw, sql
from raysaas.features.views import apart
from raysaas.records import Task
from raysaas.use_case import ExampleKind, UseCase

DAY = timedelta(days=1)
COLUMNS = ["row_id", "tenant", "entity", "event_time", "known_at", "label", "moment"]


def examples(use_case: UseCase, raw: Raw) -> pa.Table:
    """The examples known by ``raw.as_of``: ``row_id, tenant, entity, event_time, known_at, label, moment``.

    ``event_time`` is when features are taken, ``known_at`` when the label was known; ``moment`` is the time to split
    by. Labels are text for classes and float64 for values. Raises InputError when nothing can be learnt from them.
    """
    table = _rows(use_case, raw) if use_case.examples.kind is ExampleKind.rows else _cuts(use_case, raw)
    label = normal_label(table["label"], use_case.task)
    table = table.select([name for name in COLUMNS if name != "label"]).append_column("label", label).select(COLUMNS)
    table = _recent(table.filter(pc.is_valid(table["label"])), use_case.examples.keep_days)
    _check(table, use_case)
    return table


def _recent(table: pa.Table, keep_days: int | None) -> pa.Table:
    """The examples of the newest ``keep_days`` days: what is older no longer says how things are."""
    if keep_days is None or not table.num_rows:
        return table
    return table.filter(
        pc.greater(table["moment"], pa.scalar(pc.max(table["moment"]).as_py() - keep_days * DAY, STAMP))
    )


def normal_label(label: pa.ChunkedArray, task: Task) -> pa.ChunkedArray:
    """Regression: float64, NaN and infinities as null. Classes: text as in the source, whole numbers without a
    fraction."""
    if task is Task.regression:
        values = pc.cast(label, pa.float64())
        return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))
    if pa.types.is_floating(label.type):
        label = pc.if_else(pc.is_nan(label), pa.scalar(None, label.type), label)
        if pc.all(pc.equal(pc.floor(label), label)).as_py():
            label = label.cast(pa.int64())
    return label.cast(pa.string())


def cut_times(use_case: UseCase, raw: Raw) -> list[datetime]:
    """The cuts whose label is settled by ``raw.as_of``; those made by ``every_days`` also end where the data end."""
    spec = use_case.examples
    settled = (spec.horizon_days + spec.maturity_days) * DAY
    if spec.every_days:
        longest = max((days for view in use_case.views.values() for days in view.windows_days), default=0)
        first = raw.oldest_event().replace(hour=0, minute=0, second=0, microsecond=0) + longest * DAY
        count = max(0, (raw.newest() - settled - first) // (spec.every_days * DAY) + 1)
        cuts = [first + number * spec.every_days * DAY for number in range(count)]
    else:
        cuts = [_utc(cut) for cut in spec.cuts]
    kept = sorted(cut for cut in cuts if cut + settled <= raw.as_of)
    if not kept:
        raise InputError(
            f"no cut of {use_case.name!r} has a settled label: a cut needs {settled.days} days (horizon and maturity) "
            f"of data after it, and the data known by {raw.as_of:%Y-%m-%d} end on {raw.newest():%Y-%m-%d}."
        )
    return kept


def entities_at(use_case: UseCase, raw: Raw, at: datetime) -> pa.Table:
    """``tenant, entity`` of those that are examples at ``at``: seen and known by then, and not ended by their label."""
    return _standing(use_case, raw, [at]).select(["tenant", "entity"])


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _check(table: pa.Table, use_case: UseCase) -> None:
    if not table.num_rows:
        raise InputError(
            f"use case {use_case.name!r} has no example with a label: check use_case.examples and its source."
        )
    if use_case.task is Task.regression:
        return
    classes = sorted(pc.unique(table["label"]).to_pylist())
    if len(classes) < 2 or (use_case.task is Task.binary and len(classes) > 2):
        raise InputError(
            f"the label of {use_case.name!r} has {len(classes)} class(es) {classes[:5]}: a {use_case.task} model needs "
            f"{'two' if use_case.task is Task.binary else 'two or more'}."
        )


def _rows(use_case: UseCase, raw: Raw) -> pa.Table:
    spec, there = use_case.examples, raw.schema(use_case.examples.source).names
    if spec.label not in there:
        raise InputError(f"use_case.examples.label={spec.label!r} is not a column of {spec.source!r}: {there}.")
    table = raw.read(spec.source, [*CONTEXT, str(spec.label)])
    later = "OVER (PARTITION BY tenant, entity ORDER BY event_time)"
    return sql(
        f"SELECT row_id, tenant, entity, event_time, lead(known_at, {spec.lead}) {later} AS known_at, moment, "
        f'lead("{spec.label}", {spec.lead}) {later} AS label FROM rows ORDER BY tenant, entity, event_time',
        rows=apart(table.append_column("moment", table["event_time"])),
    )


def _cuts(use_case: UseCase, raw: Raw) -> pa.Table:
    spec = use_case.examples
    standing = _standing(use_case, raw, cut_times(use_case, raw))
    labels = raw.rows(str(spec.label_source)).only([*KEYS, "event_time"])
    day = DAY // timedelta(microseconds=1)
    return sql(
        "SELECT md5(concat_ws(chr(31), tenant, entity, event_time)) AS row_id, tenant, entity, event_time, "
        f"event_time + {(spec.horizon_days + spec.maturity_days) * day} AS known_at, event_time AS moment, "
        "CASE WHEN num_labels > 0 THEN '1' ELSE '0' END AS label FROM labelled ORDER BY tenant, entity, event_time",
        labelled=labels.joined(partial(_labelled, horizon=spec.horizon_days * DAY), standing),
    )


def _labelled(cuts: pa.Table, labels: pa.Table, horizon: timedelta) -> pa.Table:
    """``cuts`` with ``num_labels``, the rows of ``labels`` after each cut and up to the ``horizon`` after it."""
    ends = cuts.set_column(2, "event_time", pc.add(cuts["event_time"], pa.scalar(horizon, pa.duration("us"))))
    counted = window_aggregates(ends, labels, keys=KEYS, windows=[horizon], aggregates=["count"])
    return cuts.append_column("num_labels", counted.column(3))


def _standing(use_case: UseCase, raw: Raw, cuts: list[datetime]) -> pa.Table:
    """``tenant, entity, event_time`` of each entity at each cut at which it is an example."""
    spec = use_case.examples
    seen = raw.rows(spec.source).only([*KEYS, "event_time", "known_at"]).reduced(_since, _earliest)
    ended = seen.slice(0, 0)
    if spec.until_label:
        ended = raw.rows(str(spec.label_source)).only([*KEYS, "event_time"]).reduced(_happened, _earliest)
    return sql(
        "SELECT s.tenant, s.entity, c.event_time FROM seen s JOIN cuts c ON s.moment <= c.event_time "
        "LEFT JOIN ended e ON e.tenant = s.tenant AND e.entity = s.entity "
        "WHERE e.moment IS NULL OR e.moment > c.event_time",
        seen=seen,
        ended=ended,
        cuts=pa.table({"event_time": pa.array(cuts, STAMP)}),
    )


def _since(rows: pa.Table) -> pa.Table:
    """When each entity was first seen: something of it happened and was known."""
    happened, known = rows["event_time"], rows["known_at"]
    moment = pc.if_else(pc.greater(known, happened), known, happened)
    return _earliest(rows.select(KEYS).append_column("moment", moment))


def _happened(rows: pa.Table) -> pa.Table:
    return _earliest(rows.select(KEYS).append_column("moment", rows["event_time"]))


def _earliest(rows: pa.Table) -> pa.Table:
    """``tenant, entity`` and its first ``moment``."""
    return rows.group_by(KEYS).aggregate([("moment", "min")]).rename_columns([*KEYS, "moment"])
