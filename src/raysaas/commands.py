"""What every ``raysaas`` command shares: JSON or readable text on stdout, exit codes, the nearest name."""

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import Any, NamedTuple

import click
import yaml

from raysaas import entry
from raysaas.settings import Settings

Result = Mapping[str, Any] | None


@contextmanager
def _stdout_for_result() -> Iterator[Callable[[str], None]]:
    """Point file descriptor 1 at stderr, so that no library can spoil the result; yields the real writer."""
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    try:
        yield lambda text: _write(real, text)
    finally:
        sys.stdout.flush()
        os.dup2(real, 1)
        os.close(real)


def _write(descriptor: int, text: str) -> None:
    data = text.encode()
    while data:
        data = data[os.write(descriptor, data) :]


class Output(NamedTuple):
    """Where a command that shows something before its end writes it."""

    write: Callable[[str], None]
    as_json: bool


OUTPUT = "raysaas.output"


def command(function: Callable[..., Result]) -> Callable[..., None]:
    """Give a command ``--json`` and ``--debug``, exit codes, and print what it returns."""

    @click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, everything else on stderr.")
    @click.option("--debug", is_flag=True, help="Show trace-backs and worker logs.")
    @wraps(function)
    def run(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        if debug:
            os.environ["RAYSAAS_DEBUG"] = "1"
        entry.setup_logging()
        with entry.exit_codes(debug), _stdout_for_result() as write:
            click.get_current_context().meta[OUTPUT] = Output(write, as_json)
            result = function(*args, **kwargs)
            if result is not None:
                text = json.dumps(result, default=str) if as_json else _readable(result)
                write(text.rstrip() + "\n")

    return run


def _readable(result: Mapping[str, Any]) -> str:
    shown = json.loads(json.dumps({k: v for k, v in result.items() if v not in (None, [], {}, "")}, default=str))
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120))


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows under their columns, as wide as they need to be, one line each; what may be long comes last."""
    cells = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    return "".join(line.rstrip() + "\n" for line in lines)


def moment(at: datetime | str | None) -> str:
    """A time as people read it, to the second and with its zone; "never" for none."""
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if at else "never"


def note_stranger(settings: Settings, tenant: str) -> None:
    """Say on stderr that nobody asks as this tenant yet: it may be a slip, or the key comes later."""
    from raysaas import access

    if not access.listed(settings, tenant):
        sys.stderr.write(f"note: tenant {tenant!r} has no API key; `raysaas key list` shows who has one.\n")


overrides_argument = click.argument("overrides", nargs=-1)
SETTINGS = "OVERRIDES are settings, for example: use_case=telco_churn home=var serve.port=0 train.epochs=5"


# A mistyped command is wrong input like any other.
click.UsageError.exit_code = 65


class Commands(click.Group):
    """A group that names the nearest command, and says in each one's help what overrides are."""

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, with the epilog."""
        return super().command(*args, **{"epilog": SETTINGS, **kwargs})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; an unknown command is answered with the nearest one."""
        if self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"There is no command {args[0]!r}{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


def nearest(word: str, known: Iterable[str]) -> str:
    """The rest of a sentence that names what was meant, or all there is."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose one of {', '.join(known)}."
