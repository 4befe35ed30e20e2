"""The ``raysaas key`` commands: make, list, rotate and revoke the API keys of tenants."""

import click

from raysaas import entry
from raysaas.commands import OUTPUT, Commands, Output, Result, command, moment, overrides_argument, table


@click.group(cls=Commands)
def key() -> None:
    """Manage API keys."""


@key.command("create")
@click.option("--tenant", required=True, help="Whom the key is for: letters, digits and . _ - @.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("predict", "feedback", "events"),
    show_default=True,
    help="What the key opens: predict, feedback, events, admin; may be given several times.",
)
@click.option("--days", type=int, help="Days until the key expires; default never.")
@overrides_argument
@command
def create(tenant: str, scopes: tuple[str, ...], days: int | None, overrides: tuple[str, ...]) -> Result:
    """Make a key for a tenant; it is shown once."""
    from raysaas import access
    from raysaas.tenancy.keys import digest, key_id

    secret = access.create(entry.compose(list(overrides)), tenant, list(scopes), days)
    shown = {"key": secret, "id": key_id(digest(secret.encode()))}
    return {**shown, "tenant": tenant, "scopes": list(scopes), "days": days}


@key.command("list")
@click.option("--tenant", help="Only the keys of this tenant.")
@overrides_argument
@command
def list_keys(tenant: str | None, overrides: tuple[str, ...]) -> Result:
    """List the keys, oldest first, by id; a key itself is never shown again."""
    from raysaas import access

    keys = access.listed(entry.compose(list(overrides)), tenant)
    output: Output = click.get_current_context().meta[OUTPUT]
    if output.as_json:
        return {"keys": keys}
    columns = ("id", "tenant", "scopes", "state", "created", "expires")
    texts = [{**key, "scopes": ",".join(key["scopes"])} for key in keys]
    rows = [[moment(key[name]) if name in ("created", "expires") else key[name] for name in columns] for key in texts]
    output.write(table(columns, rows) if rows else "There is no such key: `raysaas key create --tenant T` makes one.\n")
    return None


@key.command("revoke")
@click.argument("key_id")
@overrides_argument
@command
def revoke(key_id: str, overrides: tuple[str, ...]) -> Result:
    """End a key at once, by its id (or, when it leaked, by the key itself)."""
    from raysaas import access

    return {"revoked": access.revoke(entry.compose(list(overrides)), key_id)}


@key.command("rotate")
@click.argument("key_id")
@click.option("--overlap", default="24h", show_default=True, help="How long the old key stays good: 30m, 24h, 7d, 0s.")
@overrides_argument
@command
def rotate(key_id: str, overlap: str, overrides: tuple[str, ...]) -> Result:
    """Make a key with the tenant and scopes of an old one, and let the old one end.

    The new key is shown once.
    """
    from raysaas import access

    secret, made, old = access.rotate(entry.compose(list(overrides)), key_id, overlap)
    return {"key": secret, **made, "old": old}
