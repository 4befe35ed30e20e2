"""Rows out of an Iceberg table for good: out of every version, every manifest and every file below its folder.

One commit drops every version that held or mentions the rows, for manifests keep the least and greatest values even of
files that were deleted, and gives each an heir. The heir of the newest version, and of those that are tagged or that
the caller names, is that version without the rows; tags move to it. The heir of another has the rows of the newest. All
have the times of those they replace and name them in ``raysaas.replaces``, and the ``raysaas.*`` properties go on
there, by which files, segments and offsets are known to be taken. Files of what was dropped are listed beside the table
before the commit and deleted after it, so a run that was killed is completed by the next.

Readers of a version that goes fail and must start again. Source: the Iceberg table specification, pyiceberg 0.12.
"""

import json
import random
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

from pyiceberg.exceptions import CommitFailedException

from raysaas.errors import Unavailable
from raysaas.faults import reached
from raysaas.stores.heirs import REPLACES, Rewritten, Succession
from raysaas.stores.orphans import finish, intend, sweep
from raysaas.stores.survey import Rows, Survey
from raysaas.stores.tables import Tables

_TRIES = 50


@dataclass(frozen=True, slots=True)
class Purged:
    """What went: matching rows of the newest version and in all data files, versions dropped, tags moved to a copy
    without the rows, files deleted, and files that somebody still writes and that could not be looked into."""

    rows: int = 0
    copies: int = 0
    versions: tuple[int, ...] = ()
    tags: tuple[str, ...] = ()
    files: int = 0
    unread: tuple[str, ...] = ()


def purge(
    tables: Tables,
    name: str,
    rows: Rows,
    *,
    keep: Collection[int] = (),
    mark: str = "",
    note: Callable[[int], None] = lambda count: None,
) -> Purged:
    """Remove matching rows from a table for good; ``keep`` names versions to keep a copy of beside the tagged ones.

    ``mark`` is kept in the new versions; ``note`` is told how many rows there are before they go. Running it again
    completes what a killed run began, and does nothing when nothing is left. Raises Unavailable when others keep
    writing the table.
    """
    if not tables.exists(name):
        gone, unread = sweep(f"{tables.storage.warehouse}/{name.replace('.', '/')}", rows)
        return Purged(files=gone, unread=unread)
    table = tables.table(name)
    files, survey = finish(table), Survey(table, rows)
    first, head = survey.look(), table.current_snapshot()
    held, copies = first.held(head.snapshot_id if head else 0), sum(count or 0 for count in first.rows.values())
    note(held or copies)
    done = _Commits(survey, frozenset(keep), mark)
    done.repeat()
    files += finish(table)
    gone, unread = sweep(table.location(), rows, first, table)
    return Purged(held, copies, tuple(done.dropped), tuple(done.moved), files + gone, unread)


@dataclass(slots=True)
class _Commits:
    """Commits until nothing is left to do: others may append rows meanwhile, or come first."""

    survey: Survey
    keep: frozenset[int]
    mark: str
    dropped: list[int] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)

    def repeat(self) -> None:
        """Raises Unavailable when others keep coming first."""
        table, rewritten = self.survey.table, Rewritten(self.survey)
        for attempt in range(_TRIES):
            table.refresh()
            found = self.survey.look()
            if not found.dirty():
                return
            plan = Succession(self.survey, found, self.keep, self.mark, rewritten)
            with suppress(CommitFailedException):
                self._commit(plan)
            time.sleep(random.uniform(0, 0.01 * attempt))
        name = ".".join(table.name())
        raise Unavailable(f"Table {name!r} is being written by others: rows could not be removed. Try again.")

    def _commit(self, plan: Succession) -> None:
        transaction = self.survey.table.transaction()
        doomed = plan.doomed
        plan.stage(transaction)
        intend(self.survey.table, doomed)
        reached("purge", "intended")
        try:
            transaction.commit_transaction()
        except CommitFailedException:
            plan.discard()
            raise
        reached("purge", "committed")
        self.dropped += [snapshot.snapshot_id for snapshot in doomed]
        self.moved += plan.moved


def resolve(tables: Tables, name: str, snapshot: int) -> int:
    """The version that stands for ``snapshot``: itself, its heir, or 0."""
    known = tables.snapshots(name)
    if any(item["snapshot_id"] == snapshot for item in known):
        return snapshot
    heirs = [s["snapshot_id"] for s in known if snapshot in json.loads(s["properties"].get(REPLACES, "[]"))]
    return int(heirs[0]) if heirs else 0
