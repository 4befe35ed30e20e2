"""The ``raysaas quota`` commands: request limits of tenants that have their own."""

import click

from raysaas import entry
from raysaas.commands import OUTPUT, Commands, Output, Result, command, note_stranger, overrides_argument, table
from raysaas.errors import ConfigError


@click.group(cls=Commands)
def quota() -> None:
    """Give tenants request limits of their own."""


@quota.command("set")
@click.argument("use_case")
@click.argument("tenant")
@click.argument("rps", type=float)
@overrides_argument
@command
def set_limit(use_case: str, tenant: str, rps: float, overrides: tuple[str, ...]) -> Result:
    """Limit a tenant to RPS requests a second on all replicas together.

    Replicas take it within 2 seconds.
    """
    if not 0 <= rps < float("inf"):
        raise ConfigError(f"rps={rps:g} is not allowed: expected 0 (nothing passes) or more requests a second.")
    return _limits(use_case, overrides, tenant, rps)


@quota.command("unset")
@click.argument("use_case")
@click.argument("tenant")
@overrides_argument
@command
def unset(use_case: str, tenant: str, overrides: tuple[str, ...]) -> Result:
    """Return a tenant to the common limit, serve.quota_rps."""
    return _limits(use_case, overrides, tenant, None)


@quota.command("list")
@click.argument("use_case")
@overrides_argument
@command
def list_limits(use_case: str, overrides: tuple[str, ...]) -> Result:
    """List the tenants with a limit of their own, in requests a second."""
    return _limits(use_case, overrides)


def _limits(use_case: str, overrides: tuple[str, ...], tenant: str = "", rps: float | None = None) -> Result:
    from raysaas.stores.ledger import Ledger
    from raysaas.stores.quotas import QuotaBook

    settings = entry.compose([f"use_case={use_case}", *overrides])
    book = QuotaBook(Ledger(settings.storage.ledger_url or ""), settings.use_case.name)
    if tenant:
        book.set_limit(tenant, rps)
    if rps is not None:
        note_stranger(settings, tenant)
    limits = {"default_rps": settings.serve.quota_rps, "tenants_rps": book.limits()}
    output: Output = click.get_current_context().meta[OUTPUT]
    if output.as_json:
        return {"use_case": settings.use_case.name, **limits}
    rows = [("every other", limits["default_rps"]), *sorted(book.limits().items())]
    output.write(table(("tenant", "requests a second"), [(name, f"{limit:g}") for name, limit in rows]))
    return None
