"""What an erasure leaves behind: who asked, when, what went, what could not; never the name that was erased.
And, of one who may come back, who let that be and why.

``<home>/receipts/<time>-<id>.json``. The subject is kept as a SHA-256 with the receipt's own salt: whoever knows a name
can check that it was meant. A receipt that is not ``done`` is of a run that was killed; the next run of the same
subject goes on with it.
"""

import getpass
import hashlib
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raysaas.stores.subject import Subject


@dataclass(slots=True)
class Receipt:
    """``removed`` counts by place, ``versions`` says by model version what happened to it, ``remains`` what is left.

    ``action`` is ``forget``, or ``readmit`` with a ``reason``.
    """

    id: str
    use_case: str
    sources: list[str]
    kind: str
    salt: str
    subject: str
    by: str
    started_at: str
    done: bool = False
    finished_at: str = ""
    removed: dict[str, int] = field(default_factory=dict)
    versions: list[dict[str, Any]] = field(default_factory=list)
    remains: list[str] = field(default_factory=list)
    action: str = "forget"
    reason: str = ""

    def add(self, place: str, count: int) -> None:
        """Count what was removed from a place."""
        if count:
            self.removed[place] = self.removed.get(place, 0) + count

    def expect(self, place: str, count: int) -> None:
        """Write down what is about to be removed from a place; a run that goes on with it may find less."""
        if count:
            self.removed[place] = max(self.removed.get(place, 0), count)


def opened(home: str | Path, subject: Subject, sources: list[str], action: str = "forget", reason: str = "") -> Receipt:
    """The unfinished receipt of the same action on the same subject, or a new one."""
    for path in sorted(folder(home).glob("*.json")):
        old = Receipt(**json.loads(path.read_text()))
        same = (old.action, old.use_case, old.sources) == (action, subject.use_case, sources)
        if same and not old.done and digest(old.salt, subject) == old.subject:
            return old
    now, salt = datetime.now(UTC), secrets.token_hex(16)
    return Receipt(
        id=f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}", use_case=subject.use_case, sources=sources,
        kind="tenant" if subject.entity is None else "entity", salt=salt, subject=digest(salt, subject),
        by=getpass.getuser(), started_at=now.isoformat(), action=action, reason=reason,
    )  # fmt: skip


def save(home: str | Path, receipt: Receipt) -> Path:
    """Write a receipt at once or not at all."""
    path = path_of(home, receipt)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(receipt), indent=2) + "\n")
    part.replace(path)
    return path


def path_of(home: str | Path, receipt: Receipt) -> Path:
    """Where a receipt is kept, once it is saved."""
    return folder(home) / f"{receipt.id}.json"


def digest(salt: str, subject: Subject) -> str:
    """Salted hash of tenant and entity, as JSON: ``["tenant", "entity"]`` or ``["tenant", null]``."""
    whose = json.dumps([subject.tenant, subject.entity])
    return hashlib.sha256(f"{salt}{whose}".encode()).hexdigest()


def folder(home: str | Path) -> Path:
    """Where the receipts of an installation lie."""
    return Path(home) / "receipts"


def close(receipt: Receipt, remains: Iterable[str]) -> Receipt:
    """Mark a receipt as that of a completed action."""
    receipt.done, receipt.finished_at, receipt.remains = True, datetime.now(UTC).isoformat(), list(remains)
    return receipt
