"""The ``raysaas`` command: up down demo init run submit status predict why, key, data, lineage, and releases.

Settings are given as Hydra overrides (``a.b=c``). Every command takes ``--json`` (one object on stdout, all else on
stderr) and ``--debug`` (trace-backs). Exit codes: 0 done, 65 the input or config is wrong, 75 try again later, 1 a bug.
"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from raysaas import cli_data, cli_decisions, cli_key, cli_quota, cli_release, entry
from raysaas.commands import OUTPUT, SETTINGS, Commands, Output, Result, command, nearest, overrides_argument
from raysaas.errors import ConfigError, InputError

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


class JobName(click.ParamType):
    """One of ``JOBS``."""

    name = "job"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name, or a usage error that names the nearest one."""
        if value not in JOBS:
            self.fail(f"There is no job {value!r}{nearest(value, JOBS)}", param, ctx)
        return value


def _job_list() -> str:
    return "\b\n" + "\n".join(f"{name:<12} {what}" for name, what in JOBS.items()) + f"\n\n{SETTINGS}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="raysaas")
def main() -> None:
    """Data to a served, watched, self-retraining model, on Ray."""


@main.command()
@overrides_argument
@command
def up(overrides: tuple[str, ...]) -> Result:
    """Start the local Ray head, or find the running one.

    Prints its addresses, and the first time an API key. What was deployed on a head before is deployed on a new one.
    """
    from raysaas import access, cluster, recovery

    settings = entry.compose(list(overrides))
    running = cluster.current(settings)
    head = running or cluster.up(settings)
    result: dict[str, Any] = {"url": head.url, "dashboard_url": head.dashboard_url}
    if running is None and (restored := recovery.restore(settings)):
        result["restored"] = restored
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
    "--keep/--stop", default=None, help="Keep the service up at the end, until Ctrl-C; default: only on a terminal."
)
@click.option(
    "--skip", multiple=True, type=click.Choice(["sweep", "federate"]), help="Leave this step out; may be repeated."
)
@overrides_argument
@command
def demo(overrides: tuple[str, ...], keep: bool | None, skip: tuple[str, ...]) -> Result:
    """Run the whole path on one use case and show what happened."""
    from raysaas.demo import run as run_demo

    output: Output = click.get_current_context().meta[OUTPUT]
    show = sys.stderr.write if output.as_json else output.write
    told = run_demo(entry.compose(list(overrides)), show, keep=keep, skip=skip)
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
    if settings_file and overrides:
        settings = entry.amended(settings, entry.compose(list(overrides)), overrides)
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


main.add_command(cli_data.data)
main.add_command(cli_data.lineage)
main.add_command(cli_decisions.why)
main.add_command(cli_decisions.performance)
main.add_command(cli_key.key)
main.add_command(cli_quota.quota)
for release_command in cli_release.COMMANDS:
    main.add_command(release_command)

if __name__ == "__main__":
    main()
