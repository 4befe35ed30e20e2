"""``raysaas data forget``: the rows of a tenant or an entity, out of everything a use case keeps, with a receipt.

What a source brought goes with all that was made of it: feature rows, training sets, decisions, outcomes, online rows,
refused rows, reports. Model versions stay: a bundle holds no rows, and the receipt says which versions had learnt from
them. Every step may be killed; the same command, run again, completes it and its receipt.
"""

import difflib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from raysaas.datasets import aftermath
from raysaas.errors import ConfigError, Unavailable
from raysaas.faults import reached
from raysaas.settings import Settings
from raysaas.stores import expired, journal, receipts
from raysaas.stores.ledger import Ledger
from raysaas.stores.object_versions import drop_versions
from raysaas.stores.online import OnlineStore
from raysaas.stores.purge import purge, resolve
from raysaas.stores.quotas import QuotaBook
from raysaas.stores.receipts import Receipt
from raysaas.stores.redaction import records, redact
from raysaas.stores.registry import Registry
from raysaas.stores.subject import Subject
from raysaas.stores.survey import Rows
from raysaas.stores.tables import Tables
from raysaas.stores.tombstones import bury
from raysaas.stores.traces import blot, traces
from raysaas.stores.vacuum import vacuum

EVERY = ("all", "*")
NOTHING = "Nothing was found: check the spelling of tenant and entity."
_KINDS = ("decisions", "outcomes", "shadows")
log = logging.getLogger("raysaas")


def forget(settings: Settings, source: str, tenant: str, entity: str | None) -> dict[str, Any]:
    """Erase a tenant's rows, or those of one entity, from a source (or ``all``) and from everything made of them.

    Returns the receipt with its ``path`` and a ``message``. Sources that were not named keep their rows, and the
    receipt says so; from then on ingest refuses such rows in those that were. Raises ConfigError (no such source) and
    Unavailable (something is in use for too long: run it again).
    """
    subject = Subject(settings.use_case.name, tenant, entity)
    run = _Erasure(settings, subject, sources_of(settings, source))
    for step in (run.list_versions, run.bury, run.purge_tables, run.purge_logs, run.purge_online, run.drop_keys,
                 run.clear_pages, run.repoint, run.vacuum, run.drop_versions):  # fmt: skip
        log.info("forget: %s", step.__name__.replace("_", " "))
        step()
        receipts.save(settings.storage.home, run.receipt)
        reached("forget", step.__name__)
    left = aftermath.remains(settings, run.tables, subject, run.sources) + run.unread
    path = receipts.save(settings.storage.home, receipts.close(run.receipt, left))
    return {**asdict(run.receipt), "path": str(path), "message": _message(run.receipt)}


def sources_of(settings: Settings, source: str) -> list[str]:
    """The sources that a command names: one, or ``all``. Raises ConfigError."""
    known = list(settings.use_case.sources)
    if source in EVERY:
        return known
    if source not in known:
        near = difflib.get_close_matches(source, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}, or all."
        raise ConfigError(f"use_case {settings.use_case.name} has no source {source!r}: {hint}")
    return [source]


def _message(receipt: Receipt) -> str:
    if not receipt.removed:
        return NOTHING
    told = f"{sum(receipt.removed.values())} rows and lines were removed for good."
    if receipt.versions:
        numbers = ", ".join(f"v{version['version']}" for version in receipt.versions)
        told += f" Model versions that had learnt from them: {numbers}; train and promote to replace them."
    return told


@dataclass
class _Erasure:
    """The steps of one run; each is done again without harm."""

    settings: Settings
    subject: Subject
    sources: list[str]
    unread: list[str] = field(default_factory=list)
    purged: list[str] = field(default_factory=list)

    @cached_property
    def tables(self) -> Tables:
        return Tables(self.settings.storage)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.storage.ledger_url or "")

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings.storage)

    @cached_property
    def receipt(self) -> Receipt:
        return receipts.opened(self.settings.storage.home, self.subject, self.sources)

    def list_versions(self) -> None:
        """Write down which model versions learnt from the rows, while that can still be seen."""
        known = {version["version"] for version in self.receipt.versions}
        found = aftermath.affected(self.registry, self.tables, self.subject, self.sources)
        self.receipt.versions += [version for version in found if version["version"] not in known]

    def bury(self) -> None:
        """Have ingest refuse new rows of the subject, before the old ones go."""
        for source in self.sources:
            bury(self.ledger, self.subject.use_case, source, self.subject.tenant, self.subject.entity)

    def purge_tables(self) -> None:
        """Sources, what was refused of them and left over of them, feature rows, training sets."""
        name = self.subject.use_case
        for source in self.sources:
            self._drop_extracts(source)
            self._purge(f"raw.{name}__{source}", self.subject.rows())
            self._purge(f"quarantine.{name}__{source}", self.subject.refused(self.settings.use_case.sources[source]))
        for table in self.tables.names():
            if table.startswith(f"features.{name}__"):
                self._purge(table, self.subject.rows())
        tables = [f"{space}.{name}__{source}" for space in ("raw", "quarantine") for source in self.sources]
        expired.clean(self.settings.storage.ledger_url or "", tables, self.subject.clean)
        snapshots = {version.training_snapshot for version in self.registry.versions(name)}
        self._purge(f"training.{name}", self.subject.rows(), snapshots)

    def purge_logs(self) -> None:
        """Decisions, their outcomes and shadow scores: journal first, for what is in it can still be shipped."""
        root, name = self.settings.storage.journal or "", self.subject.use_case
        kinds = [*_KINDS, *(journal.events_kind(source) for source in self.sources)]
        for kind in kinds:
            if not journal.await_closed(root, name, kind, self.settings.serve.segment_age_s + 10):
                raise Unavailable(f"The {kind} of {name} are still being written: run this again.")
        mine, named = self._decisions(root), self._decisions(root, "key")
        self._redact({"outcomes", "shadows"}, mine, named)
        for kind in ("outcomes", "shadows"):
            self._purge(f"log.{kind}", self.subject.answers(mine, named))
        self._redact(set(kinds) - {"outcomes", "shadows"}, mine, named)
        self._purge("log.decisions", self.subject.logged())

    def purge_online(self) -> None:
        """Feature rows that decisions are made from."""
        store, tenant, entity = (
            OnlineStore(self.settings.storage.online_url or ""),
            self.subject.tenant,
            self.subject.entity,
        )
        self.receipt.add("online", store.forget(tenant, entity, use_case=self.subject.use_case))
        store.close()

    def drop_keys(self) -> None:
        """The API keys of a tenant that is forgotten altogether."""
        if self.subject.entity is None and self.sources == list(self.settings.use_case.sources):
            self.receipt.add("api keys", self.ledger.drop_keys(self.subject.tenant))
            QuotaBook(self.ledger, self.settings.use_case.name).forget_tenant(self.subject.tenant)

    def clear_pages(self) -> None:
        """Reports that show the subject go, lines of logs are blotted: both are made anew as the system runs."""
        home = Path(self.settings.storage.home)
        for path in traces(home / "reports", self.subject.word):
            path.unlink(missing_ok=True)
            self.receipt.add("reports", 1)
        for folder in ("logs", "lineage"):
            for path in traces(home / folder, self.subject.word):
                self.receipt.add(folder, blot(path, self.subject.word))

    def repoint(self) -> None:
        """Point what names an erased version of a table at the copy without the rows."""
        from raysaas.features.repointing import repoint

        repoint(self.subject.use_case, self.settings.storage, self.tables)
        table = f"training.{self.subject.use_case}"
        for version in self.registry.versions(self.subject.use_case):
            heir = resolve(self.tables, table, version.training_snapshot)
            if heir not in (0, version.training_snapshot):
                tags = {"training_snapshot": str(heir), "erased": self.receipt.id}
                self.registry.amend(version.use_case, version.version, tags)

    def vacuum(self) -> None:
        """Overwrite what the databases still hold of deleted rows."""
        storage = self.settings.storage
        urls = dict.fromkeys([storage.online_url, storage.catalog_url, storage.mlflow_url, storage.ledger_url])
        # Of a server only the ledger's tables ever held a name: the others hold paths and numbers.
        held = [*self.ledger.tables, expired.TABLE]
        kept = [vacuum(url or "", held if url == storage.ledger_url else ()) for url in urls]
        self.unread += dict.fromkeys(sentence for sentence in kept if sentence)

    def drop_versions(self) -> None:
        """Delete what a versioned bucket keeps of the files that went."""
        places = [f"inbox/{self.subject.use_case}__{source}" for source in self.sources]
        places += [table.replace(".", "/") for table in self.purged]
        kept = [drop_versions(f"{self.settings.storage.warehouse}/{place}")[1] for place in places]
        self.unread += dict.fromkeys(sentence for sentence in kept if sentence)

    def _purge(self, table: str, rows: Rows, keep: set[int] | None = None) -> None:
        def note(count: int) -> None:
            self.receipt.expect(table, count)
            receipts.save(self.settings.storage.home, self.receipt)

        done = purge(self.tables, table, rows, keep=keep or (), mark=self.receipt.id, note=note)
        self.unread += [f"{path} is being written: run this again when that is done" for path in done.unread]
        self.purged.append(table)
        reached("forget", f"purged:{table}")

    def _decisions(self, root: str, name: str = "id") -> set[str]:
        """Ids of the subject's decisions (or with ``key`` the tenant's own names of them), wherever they lie."""
        logged = records(root, self.subject.use_case, "decisions")
        known = {record[name] for record in logged if self._made(record) and record.get(name)}
        if self.tables.exists("log.decisions") and name in self.tables.schema("log.decisions").names:
            mine = self.tables.read("log.decisions", columns=[name], where=self.subject.logged().prune)
            known |= set(mine[name].drop_null().to_pylist())
        return known

    def _made(self, record: Mapping[str, Any]) -> bool:
        entity = self.subject.entity
        return record.get("tenant") == self.subject.tenant and entity in (None, record.get("entity"))

    def _redact(self, kinds: set[str], decisions: set[str], named: set[str]) -> None:
        def gone(kind: str, record: Mapping[str, Any]) -> bool:
            if kind not in kinds:
                return False
            if kind == "decisions" or (self.subject.entity is None and kind in _KINDS):
                return self._made(record)
            if kind not in _KINDS:
                return self._sent(kind, record)
            by_key = record.get("key") in named and record.get("tenant") == self.subject.tenant
            return record.get("decision_id") in decisions or (not record.get("decision_id") and by_key)

        lines = redact(self.settings.storage.journal or "", self.subject.use_case, gone)
        self.receipt.add("journal", lines)

    def _sent(self, kind: str, record: Mapping[str, Any]) -> bool:
        """Whether an event that came over HTTP is the subject's."""
        source = self.settings.use_case.sources[kind.partition("__")[2]]
        return self.subject.wrote(source, json.dumps(record))

    def _drop_extracts(self, source: str) -> None:
        """Rows that were taken from a database or the journal and not committed: they are taken anew."""
        fs, folder = pafs.FileSystem.from_uri(
            f"{self.settings.storage.warehouse}/inbox/{self.subject.use_case}__{source}"
        )
        for kind in ("sql", "events"):
            fs.delete_dir_contents(f"{folder}/{kind}", missing_dir_ok=True)
