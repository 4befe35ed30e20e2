"""The ``raysaas`` command: up down demo init run submit status predict key rollback promote why.

Settings are given as Hydra overrides (``a.b=c``). Every command takes ``--json`` (one object on stdout, all else on
stderr) and ``--debug`` (trace-backs). Exit codes: 0 done, 65 the input or config is wrong, 75 try again later, 1 a bug.
"""

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click
import yaml

from raysaas import entry
from raysaas.errors import ConfigError, InputError
from raysaas.settings import Settings

JOBS = {
    "simulate": "the files of a simulated SaaS, under data_dir",
    "ingest": "files into the use case's Iceberg tables",
    "materialize": "the point-in-time training set and the online rows",
    "train": "every model family, registered and judged",
    "sweep": "a search over the network's shape",
    "federate": "the network over edge nodes",
    "deploy": "the champion in front of users",
    "watch": "ship the journals, render the drift report",
    "retrain": "carry out the open retrain order",
    "pipeline": "ingest, materialize, train and deploy",
}
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


_OUTPUT = "raysaas.output"


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
            click.get_current_context().meta[_OUTPUT] = Output(write, as_json)
            result = function(*args, **kwargs)
            if result is not None:
                text = json.dumps(result, default=str) if as_json else _readable(result)
                write(text.rstrip() + "\n")

    return run


def _readable(result: Mapping[str, Any]) -> str:
    shown = json.loads(json.dumps({k: v for k, v in result.items() if v not in (None, [], {}, "")}, default=str))
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120))


overrides_argument = click.argument("overrides", nargs=-1)
_SETTINGS = "OVERRIDES are settings, for example: use_case=telco_churn home=var serve.port=0 train.epochs=5"


# A mistyped command is wrong input like any other.
click.UsageError.exit_code = 65


class Commands(click.Group):
    """A group that names the nearest command, and says in each one's help what overrides are."""

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """As click's, with the epilog."""
        return super().command(*args, **{"epilog": _SETTINGS, **kwargs})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; an unknown command is answered with the nearest one."""
        if self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"There is no command {args[0]!r}{_nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)


class JobName(click.ParamType):
    """One of ``JOBS``."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or a usage error that names the nearest one."""
        if value not in JOBS:
            self.fail(f"There is no job {value!r}{_nearest(value, JOBS)}", param, ctx)
        return value


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose one of {', '.join(known)}."


def _job_list() -> str:
    return "\b\n" + "\n".join(f"{name:<12} {what}" for name, what in JOBS.items()) + f"\n\n{_SETTINGS}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raysaas")
def main() -> None:
    """Data to a served, watched, self-retraining model, on Ray."""


@main.command()
@overrides_argument
@command
def up(overrides: tuple[str, ...]) -> Result:
    """Start the local Ray head, or find the running one.

    Prints its addresses, and the first time an API key.
    """
    from raysaas import access, cluster

    settings = entry.compose(list(overrides))
    head = cluster.up(settings)
    result = {"url": head.url, "dashboard_url": head.dashboard_url}
    if key := access.first_key(settings):
        result["api_key"] = key
    sys.stderr.write(
        f"Ray's own commands need its token: export RAY_AUTH_MODE=token RAY_ADDRESS={head.dashboard_url}\n"
    )
    return result


@main.command()
@overrides_argument
@command
def down(overrides: tuple[str, ...]) -> Result:
    """Stop the head that `raysaas up` started, and nothing else."""
    from raysaas import cluster

    return {"stopped": cluster.down(entry.compose(list(overrides)))}


@main.command()
@click.option(
    "--keep/--stop", default=None, help="Leave the service up at the end; default: until Ctrl-C on a terminal."
)
@overrides_argument
@command
def demo(overrides: tuple[str, ...], keep: bool | None) -> Result:
    """Run the whole path on one use case and show what happened."""
    from raysaas.demo import run as run_demo

    output: Output = click.get_current_context().meta[_OUTPUT]
    show = sys.stderr.write if output.as_json else output.write
    told = run_demo(entry.compose(list(overrides)), show, keep=keep)
    return told if output.as_json else None


@main.command()
@click.argument("name")
@click.option("--data", required=True, help="A CSV, Parquet or JSON Lines file, or a URI.")
@click.option("--label", help="The column to predict.")
@click.option("--entity", help="The column that names the thing predicted for.")
@click.option("--time", help="The column with the time of a row.")
@click.option("--tenant", help="The column that names the tenant.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@command
def init(name: str, data: str, force: bool, **columns: str | None) -> Result:
    """Make a use case from a file, and say what was assumed.

    Writes conf/use_case/NAME.yaml, which is meant to be edited.
    """
    from raysaas.ingest.infer import infer, to_yaml

    target = Path("conf/use_case") / f"{name}.yaml"
    if target.exists() and not force:
        raise ConfigError(f"{target} exists: choose another name, or --force to overwrite it.")
    use_case, assumptions = infer(data, name, **columns)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(to_yaml(use_case, assumptions))
    following = f"raysaas run pipeline use_case={name}"
    return {"written": str(target), "task": str(use_case.task), "assumed": assumptions, "next": following}


@main.command(epilog=_job_list())
@click.argument("job", type=JobName())
@click.option("--settings", "settings_file", type=click.Path(exists=True), help="Settings that a deployment saved.")
@overrides_argument
@command
def run(job: str, overrides: tuple[str, ...], settings_file: str | None) -> Result:
    """Run a job here and wait for it."""
    from raysaas import lifecycle

    settings = entry.saved(Path(settings_file)) if settings_file else entry.compose(list(overrides))
    entry.connected(settings, job)
    result: Result = lifecycle.JOBS[job](settings)
    if result and result.get("url"):
        sys.stderr.write(
            f"Docs: {result['url']}/docs. A key: raysaas key create --tenant NAME. The end: raysaas down.\n"
        )
    return result


@main.command(epilog=_job_list())
@click.argument("job", type=JobName())
@click.option("--wait/--no-wait", default=True, help="Wait for the job's end (the default), or only hand it over.")
@overrides_argument
@command
def submit(job: str, overrides: tuple[str, ...], wait: bool) -> Result:
    """Run a job through the Ray Jobs API on the running head."""
    from raysaas import cluster

    settings = entry.compose(list(overrides))
    return cluster.submit(settings, job, list(overrides), wait=wait)


@main.command()
@overrides_argument
@command
def status(overrides: tuple[str, ...]) -> Result:
    """Show the head, and how each use case does.

    For each: its champion, release, drift and open orders.
    """
    from raysaas import overview

    return overview.status(entry.compose(list(overrides)))


@main.command()
@click.argument("use_case")
@click.option("--key", envvar="RAYSAAS_API_KEY", show_envvar=True, required=True, help="API key.")
@click.option("--instance", multiple=True, help="One row as JSON, for example '{\"tenure\": 3}'.")
@click.option("--entity", multiple=True, help="One entity id; its features are read online.")
@overrides_argument
@command
def predict(
    use_case: str, key: str, instance: tuple[str, ...], entity: tuple[str, ...], overrides: tuple[str, ...]
) -> Result:
    """Ask a served use case for decisions over HTTP."""
    from raysaas import client, cluster

    try:
        rows = [json.loads(text) for text in instance]
    except json.JSONDecodeError as error:
        raise InputError(f"--instance is not JSON: {error}.") from error
    settings = entry.compose(list(overrides))
    head = cluster.head(settings) if settings.cluster.address else cluster.require(settings)
    return client.Client(head.url, key).predict(use_case, instances=rows, entities=list(entity))


@main.group(cls=Commands)
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
def key_create(tenant: str, scopes: tuple[str, ...], days: int | None, overrides: tuple[str, ...]) -> Result:
    """Make a key for a tenant; it is shown once."""
    from raysaas import access

    secret = access.create(entry.compose(list(overrides)), tenant, list(scopes), days)
    return {"key": secret, "tenant": tenant, "scopes": list(scopes), "days": days}


@main.command()
@click.argument("use_case")
@click.argument("version", type=int)
@click.option("--reason", default="by hand", help="Why; it stays in the release history.")
@overrides_argument
@command
def promote(use_case: str, version: int, reason: str, overrides: tuple[str, ...]) -> Result:
    """Make a version the champion that answers."""
    return _released(use_case, overrides, lambda s: _lifecycle().promote_version(s, version, _user(), reason))


@main.command()
@click.argument("use_case")
@click.option("--reason", default="by hand", help="Why; it stays in the release history.")
@overrides_argument
@command
def rollback(use_case: str, reason: str, overrides: tuple[str, ...]) -> Result:
    """Return to the champion before the present one."""
    return _released(use_case, overrides, lambda s: _lifecycle().rollback(s, actor=_user(), reason=reason))


def _released(use_case: str, overrides: tuple[str, ...], act: Callable[[Settings], Any]) -> Result:
    release = act(entry.compose([f"use_case={use_case}", *overrides]))
    champion = release.champion.version
    return {"use_case": use_case, "sequence": release.sequence, "champion": champion, "reason": release.reason}


def _lifecycle() -> Any:
    from raysaas import lifecycle

    return lifecycle


def _user() -> str:
    return os.environ.get("USER", "unknown")


@main.command()
@click.argument("decision_id")
@overrides_argument
@command
def why(decision_id: str, overrides: tuple[str, ...]) -> Result:
    """Show all that is known of a decision.

    Inputs, version, data, outcome, and the score computed again.
    """
    from raysaas import overview

    return overview.why(entry.compose(list(overrides)), decision_id)


if __name__ == "__main__":
    main()
