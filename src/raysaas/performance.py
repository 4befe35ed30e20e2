"""How good the decisions of a use case were, counted on mature ones, with the rows and versions behind each number."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from raysaas.drift.cohorts import COLUMNS, Cohort, cohorts
from raysaas.drift.state import Reference
from raysaas.errors import NotFound
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger
from raysaas.stores.matured import JOINED, matured, write_rows

_GROUPS_SHOWN = 60


def performance(
    settings: Settings, by: Sequence[str] = (), *, window: timedelta | None = None, since: timedelta | None = None,
    delay: timedelta | None = None, tenant: str | None = None, rows_to: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Metrics in all and by group, how mature they are, and what they were read from.

    ``by`` names columns of decisions or inputs; ``since`` looks at decisions that are no older; ``delay`` is how long a
    label takes to be known, by default as the use case says; ``rows_to`` is a Parquet file for the rows behind the
    numbers. Raises NotFound for a use case that was never released, InputError for an unknown group.
    """
    name, now = settings.use_case.name, datetime.now(UTC)
    release = Ledger(settings.storage.ledger_url or "").release(name)
    if release is None:
        raise NotFound(f"{name} was never released, so nobody decided anything: see `raysaas status`.")
    reference = Reference.read(release.champion)
    wait = settings.use_case.examples.label_delay if delay is None else delay
    inputs = bool(set(by) - set(COLUMNS))
    found = matured(settings.storage, name, tenant=tenant, since=now - since if since else None, inputs=inputs)
    if rows_to:
        write_rows(rows_to, found.rows)
    of = {"task": reference.task, "labels": reference.labels, "now": now, "delay": wait}
    (total,) = cohorts(found.rows, (), **of)  # type: ignore[arg-type]
    groups = cohorts(found.rows, by, window=window, **of) if by or window else []  # type: ignore[arg-type]
    return {
        "use_case": name,
        "task": str(reference.task),
        "as_of": now,
        "label_delay_s": wait.total_seconds(),
        "tenant": tenant,
        "total": _plain(total),
        "groups": [_plain(group) for group in groups],
        "source": {"snapshots": dict(found.snapshots), "unshipped": dict(found.unshipped), "query": JOINED.strip(),
                   "first": _edge(found.rows, 0), "last": _edge(found.rows, -1)},
        "rows": rows_to,
    }  # fmt: skip


def _plain(cohort: Cohort) -> dict[str, Any]:
    return {**asdict(cohort), "maturity": cohort.maturity}


def _edge(rows: Any, place: int) -> dict[str, Any] | None:
    """The first or last decision that was looked at, in order of time."""
    return {name: rows[name][place].as_py() for name in ("id", "time")} if rows.num_rows else None


def screen(told: Mapping[str, Any]) -> str:
    """What :func:`performance` found, for people: what it was measured on first, then a line per group."""
    total, days = told["total"], told["label_delay_s"] / 86_400
    head = [
        f"{told['use_case']} ({told['task']}), {told['as_of']:%Y-%m-%d %H:%M} UTC" + _of(told["tenant"]),
        f"{total['num_decisions']} decisions; {total['num_mature']} are mature (at least {days:g} days old); "
        f"the outcome of {total['num_known']} of those is known{_percent(total['maturity'])}.",
    ]
    if total["num_early"]:
        head.append(f"{total['num_early']} outcomes of younger decisions are known and do not count yet (--delay 0d).")
    if total["num_unusable"]:
        head.append(f"{total['num_unusable']} outcomes are no label of the model and do not count.")
    lines = [*told["groups"][:_GROUPS_SHOWN], {**total, "group": {"": "all"}}]
    table = _table([_cells(line, told["groups"]) for line in lines])
    more = len(told["groups"]) - _GROUPS_SHOWN
    tail = [f"and {more} more groups: --json has them."] if more > 0 else []
    return "\n".join([*head, "", *table, *tail, "", *_source(told)]) + "\n"


def _of(tenant: str | None) -> str:
    return f", tenant {tenant}" if tenant else ""


def _percent(share: float | None) -> str:
    return "" if share is None else f" ({share:.0%})"


def _cells(line: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = list(groups[0]["group"]) if groups else [""]
    own = {name: line["group"].get(name, "") for name in names}
    if "" in line["group"]:
        own[names[0]] = line["group"][""]
    maturity = "-" if line["maturity"] is None else f"{line['maturity']:.0%}"
    counts = {"decisions": str(line["num_decisions"]), "mature": str(line["num_mature"]),
              "known": str(line["num_known"]), "maturity": maturity}  # fmt: skip
    return own | counts | {name: f"{value:.4g}" for name, value in line["metrics"].items()}


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    names = list(dict.fromkeys(name for row in reversed(rows) for name in row))
    names = list(dict.fromkeys([*rows[0], *names]))
    cells = [names, *([row.get(name, "-") for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _source(told: Mapping[str, Any]) -> list[str]:
    source = told["source"]
    read = [f"{name}@{snapshot or 'none'} and {source['unshipped'][name]} of the journal"
            for name, snapshot in source["snapshots"].items()]  # fmt: skip
    rows = [f"The rows behind these numbers: {told['rows']}"] if told["rows"] else []
    return [f"Read from {'; '.join(read)}.", *rows]
