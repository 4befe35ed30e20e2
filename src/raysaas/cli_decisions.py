"""The ``raysaas`` commands about decisions: why one was made, and how good they were."""

import re
from datetime import timedelta

import click

from raysaas import entry
from raysaas.commands import OUTPUT, SETTINGS, Output, Result, command, overrides_argument

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class Span(click.ParamType):
    """A length of time such as 7d, 12h, 30m or 45s."""

    name = "span"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The length; a usage error for other text."""
        found = re.fullmatch(r"(\d{1,6})([dhms])", value)
        if found is None:
            self.fail(f"{value!r} is no length of time: expected a number and a unit, such as 7d, 12h, 30m or 45s.")
        return timedelta(**{_UNITS[found[2]]: int(found[1])})


@click.command(epilog=SETTINGS)
@click.argument("decision_id")
@overrides_argument
@command
def why(decision_id: str, overrides: tuple[str, ...]) -> Result:
    """Show all that is known of a decision.

    Inputs, version, data, release, outcomes, and the score computed again.
    """
    from raysaas import overview
    from raysaas.lineage.decision_text import page

    told = overview.why(entry.compose(list(overrides)), decision_id)
    output: Output = click.get_current_context().meta[OUTPUT]
    if output.as_json:
        return told
    output.write(page(told))
    return None


@click.command(epilog=SETTINGS)
@click.argument("use_case")
@click.option("--by", default="", help="Groups, with commas: tenant, version, arm, day, or inputs of the model.")
@click.option("--window", type=Span(), help="Also by windows of this length, such as 7d.")
@click.option("--since", type=Span(), help="Only decisions that are no older, such as 90d.")
@click.option("--delay", type=Span(), help="How long labels take to be known; default: as the use case says.")
@click.option("--tenant", help="Only decisions of this tenant.")
@click.option("--rows", "rows_to", help="Also write the rows behind the numbers to this Parquet file.")
@overrides_argument
@command
def performance(
    use_case: str,
    by: str,
    window: timedelta | None,
    since: timedelta | None,
    delay: timedelta | None,
    tenant: str | None,
    rows_to: str | None,
    overrides: tuple[str, ...],
) -> Result:
    """Say how good the decisions of a use case were.

    Counts mature decisions only: those old enough that their label is known. Says how many of them have one.
    """
    from raysaas import performance as measured

    names = [name.strip() for name in by.split(",") if name.strip()]
    settings = entry.compose([f"use_case={use_case}", *overrides])
    told = measured.performance(
        settings, names, window=window, since=since, delay=delay, tenant=tenant, rows_to=rows_to
    )
    output: Output = click.get_current_context().meta[OUTPUT]
    if output.as_json:
        return told
    output.write(measured.screen(told))
    return None
