"""Whether a batch may enter: its findings, the rules that refuse it whole, the error budget. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from raysaas.errors import ContractError
from raysaas.ingest.bounds import broken_bounds
from raysaas.ingest.findings import BatchFault, Findings
from raysaas.ingest.refusals import example, examples, num_read, num_refused, rules
from raysaas.ingest.staging import Batch, Staged
from raysaas.use_case import OnBroken

_NEXT = "Repair the file, or change the contract"


def examine(staged: Sequence[Staged], batch: Batch, last: Findings | None) -> Findings:
    """What is to be said of a staged batch; ``last`` is the last batch that was accepted.

    Rows that many senders pushed one by one are no batch anyone made: its rules only warn of them.
    """
    broken = rules(staged)
    newest = max((s.newest for s in staged if s.newest is not None), default=None)
    found = Findings(
        at=batch.now.isoformat(), read=num_read(staged), accepted=sum(s.num_accepted for s in staged),
        refused=num_refused(staged), duplicates=sum(s.num_copies for s in staged),
        warned=sum(one.count for one in broken if one.action == OnBroken.warn), rules=tuple(broken),
        newest=datetime.fromtimestamp(newest / 1e6, UTC).isoformat() if newest is not None else None,
        nulls={name: sum(s.nulls.get(name, 0) for s in staged) for name in staged[0].nulls} if staged else {},
        day_first=dict(batch.day_first),
    )  # fmt: skip
    faults = broken_bounds(batch.source, found, last, batch.now)
    pushed = all(part.file.pushed for part in batch.parts)
    return replace(found, faults=tuple(replace(f, action=str(OnBroken.warn)) for f in faults) if pushed else faults)


def judge(name: str, staged: Sequence[Staged], batch: Batch, found: Findings, budget: float, quarantine: str) -> None:
    """Raise ContractError when source ``name`` may not take the batch; pushed rows cost no budget and refuse none."""
    judged = [s for s in staged if not batch.parts[s.part].file.pushed]
    whole = next((one for one in rules(judged) if one.action == OnBroken.refuse_batch), None)
    if whole is not None:
        raise ContractError(
            f"Rule {whole.named} of source {name!r} refuses the whole batch; nothing was committed. {example(whole)}. "
            f"Refused rows are in {quarantine}. {_NEXT}."
        )
    refusing = [fault for fault in found.faults if fault.action == OnBroken.refuse_batch]
    if refusing:
        raise ContractError(
            f"The batch of source {name!r} was refused; nothing was committed. {_told(refusing)}. {_NEXT}, or let the "
            f"rule warn: on_broken: {{{refusing[0].rule}: warn}}."
        )
    read, refused = num_read(judged), num_refused(judged)
    if refused > budget * read:
        raise ContractError(
            f"{refused} of {read} rows ({refused / read:.1%}) of source {name!r} broke the "
            f"contract, over the budget of {budget:.1%} (ingest.error_budget); nothing was committed. "
            f"{examples(staged)} All of them are in {quarantine}. {_NEXT} or the budget."
        )


def _told(faults: Sequence[BatchFault]) -> str:
    return "; ".join(f"{fault.rule}: {fault.said}" for fault in faults)
