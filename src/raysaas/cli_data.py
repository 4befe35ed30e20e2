"""The ``raysaas data`` commands: versions of a dataset, what was refused, and what must be forgotten."""

import json

import click

from raysaas import entry
from raysaas.commands import OUTPUT, Commands, Output, Result, command, overrides_argument
from raysaas.errors import InputError


@click.group(cls=Commands)
def data() -> None:
    """Look at datasets, compare their versions, repair what was refused, forget."""


@data.command("log")
@click.argument("source")
@overrides_argument
@command
def log(source: str, overrides: tuple[str, ...]) -> Result:
    """List the versions of a source's table, oldest first."""
    from raysaas.datasets import versions

    return versions.log(entry.compose(list(overrides)), source)


@data.command("show")
@click.argument("source")
@click.option("--rows", default=5, show_default=True, help="How many rows to show.")
@overrides_argument
@command
def show(source: str, rows: int, overrides: tuple[str, ...]) -> Result:
    """Show SOURCE or SOURCE@VERSION: columns, counts, first rows."""
    from raysaas.datasets import versions

    return versions.show(entry.compose(list(overrides)), source, rows)


@data.command("diff")
@click.argument("source")
@click.argument("a")
@click.argument("b")
@overrides_argument
@command
def diff(source: str, a: str, b: str, overrides: tuple[str, ...]) -> Result:
    """Say what changed between versions A and B of a source."""
    from raysaas.datasets import versions

    return versions.diff(entry.compose(list(overrides)), source, a, b)


@data.command("report")
@click.argument("source")
@overrides_argument
@command
def report(source: str, overrides: tuple[str, ...]) -> Result:
    """Say how the newest batch of a source kept its contract; writes HTML and JSON."""
    from raysaas.datasets import contracts

    return contracts.report(entry.compose(list(overrides)), source)


@data.command("contract")
@click.argument("source")
@overrides_argument
@command
def contract(source: str, overrides: tuple[str, ...]) -> Result:
    """Infer a contract from the newest version of a source, as YAML to edit and put under use_case.sources.SOURCE."""
    from raysaas.datasets import contracts

    output: Output = click.get_current_context().meta[OUTPUT]
    found = contracts.infer(entry.compose(list(overrides)), source)
    if output.as_json:
        return found
    output.write(found["yaml"])
    return None


@data.command("compact")
@click.argument("source")
@overrides_argument
@command
def compact(source: str, overrides: tuple[str, ...]) -> Result:
    """Merge the small files of a source's tables and expire old versions; a watched source does so by itself.

    Versions stay that a tag or a training set names, the newest ones, and those younger than `ingest.keep_hours`.
    """
    from raysaas.datasets import contracts

    settings = entry.compose(list(overrides))
    entry.connected(settings, "ingest")
    return contracts.compact(settings, source)


@data.group(cls=Commands)
def quarantine() -> None:
    """Rows that were refused."""


@quarantine.command("list")
@click.argument("source")
@click.option("--rows", default=20, show_default=True, help="How many rows to show.")
@click.option("--out", help="Also write all of them to this CSV or JSON Lines file, to be repaired.")
@overrides_argument
@command
def quarantine_list(source: str, rows: int, out: str | None, overrides: tuple[str, ...]) -> Result:
    """List the refused rows of a source that were not replayed yet."""
    from raysaas.datasets import contracts

    return contracts.refused(entry.compose(list(overrides)), source, rows, out)


@quarantine.command("replay")
@click.argument("source")
@click.option("--fixed", help="Repaired rows, as `quarantine list --out` wrote them; default: as they were.")
@overrides_argument
@command
def quarantine_replay(source: str, fixed: str | None, overrides: tuple[str, ...]) -> Result:
    """Put refused rows through the contract again, each exactly once."""
    from raysaas.datasets import contracts

    settings = entry.compose(list(overrides))
    entry.connected(settings, "ingest")
    return contracts.replay(settings, source, fixed)


@data.command("forget")
@click.argument("source")
@click.option("--tenant", required=True, help="Whose rows.")
@click.option("--entity", help="Of one entity only.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@overrides_argument
@command
def forget(source: str, tenant: str, entity: str | None, yes: bool, overrides: tuple[str, ...]) -> Result:
    """Remove rows everywhere they are kept, for good, and leave a receipt.

    SOURCE is one source of the use case, or `all`. What was made of the rows goes too; what stays is told: sources that
    were not named, source files, model versions that had learnt from the rows. Ingest refuses such rows from then on.
    """
    from raysaas.datasets import erasure

    settings = entry.compose(list(overrides))
    whose = f"entity {entity!r} of tenant {tenant!r}" if entity else f"tenant {tenant!r}"
    if not (yes or _confirmed(f"Remove all rows of {whose} for good?")):
        raise InputError("Nothing was removed: answer y, or give --yes.")
    return erasure.forget(settings, source, tenant, entity)


@data.command("readmit")
@click.argument("source")
@click.option("--tenant", required=True, help="Whose rows may come again.")
@click.option("--entity", help="Of one entity only.")
@click.option("--reason", required=True, help="Why; it stands in the receipt.")
@overrides_argument
@command
def readmit(source: str, tenant: str, entity: str | None, reason: str, overrides: tuple[str, ...]) -> Result:
    """Take new rows of a forgotten tenant or entity again, and leave a receipt of who let them and why.

    SOURCE is one source of the use case, or `all`. What was erased stays gone. A tenant that was forgotten as a whole
    is let in as a whole; of it, entities that were forgotten singly stay out.
    """
    from raysaas.datasets import readmission

    return readmission.readmit(entry.compose(list(overrides)), source, tenant, entity, reason)


def _confirmed(question: str) -> bool:
    try:
        return click.confirm(question, err=True)
    except click.Abort:  # nobody is there to answer
        return False


@click.command("lineage")
@click.argument("id")
@click.option("--openlineage", is_flag=True, help="As OpenLineage events, one JSON object per line.")
@overrides_argument
@command
def lineage(id: str, openlineage: bool, overrides: tuple[str, ...]) -> Result:  # noqa: A002 - the argument's name
    """Walk from a record to all it was made from and all it led to.

    ID: a decision's id, v3, "release 4", SOURCE@SNAPSHOT, training@SNAPSHOT, a snapshot id, or a source file.
    """
    from raysaas.lineage import walk as graph

    told = graph.walk(entry.compose(list(overrides)), id, openlineage=openlineage)
    output: Output = click.get_current_context().meta[OUTPUT]
    if openlineage:
        output.write("".join(json.dumps(event) + "\n" for event in told["events"]))
        return None
    if not output.as_json:
        output.write(told["text"] + "\n")
        return None
    return {key: value for key, value in told.items() if key != "text"}
