"""``raysaas data readmit``: rows of one who was forgotten may come again; who let them, when and why is kept."""

from dataclasses import asdict
from typing import Any

from raysaas.datasets.erasure import sources_of
from raysaas.errors import InputError, NotFound
from raysaas.faults import reached
from raysaas.settings import Settings
from raysaas.stores import receipts
from raysaas.stores.ledger import Ledger
from raysaas.stores.subject import Subject
from raysaas.stores.tombstones import lift, tombstones


def readmit(settings: Settings, source: str, tenant: str, entity: str | None, reason: str) -> dict[str, Any]:
    """Take new rows of a forgotten tenant or entity again in a source (or ``all``); what was erased stays gone.

    Returns the receipt with its ``path`` and a ``message``. Raises ConfigError (no such source), InputError (no reason,
    one with the name in it, an entity of a tenant that is gone as a whole) and NotFound (no source keeps it out).
    """
    subject = Subject(settings.use_case.name, tenant, entity)
    if not reason.strip() or subject.word.search(reason):
        raise InputError("--reason must say why, without the name: the receipt names nobody.")
    home, ledger = settings.storage.home, Ledger(settings.storage.ledger_url or "")
    sources = sources_of(settings, source)
    gone = {name: tombstones(ledger, subject.use_case, name) for name in sources}
    whole = [name for name in sources if entity is not None and gone[name].holds(tenant, None)]
    if whole:
        raise InputError(f"The tenant was forgotten as a whole in {', '.join(whole)}: readmit it without --entity.")
    receipt = receipts.opened(home, subject, sources, "readmit", reason)
    out = [name for name in sources if gone[name].holds(tenant, entity)]
    if not out and not receipts.path_of(home, receipt).exists():  # else a run that was killed had lifted it
        raise NotFound(f"Nobody of that name is kept out of {', '.join(sources)}: check the spelling.")
    receipts.save(home, receipt)
    for name in out:
        lift(ledger, subject.use_case, name, tenant, entity)
    reached("readmit", "lifted")
    path = receipts.save(home, receipts.close(receipt, []))
    told = "New rows are taken from the next ingest on; what was erased stays gone."
    if entity is None:
        told += " Its API keys are gone too: make new ones with `raysaas key create`."
    return {**asdict(receipt), "path": str(path), "message": told}
