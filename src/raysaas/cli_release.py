"""The ``raysaas`` commands of releases: who answers, since when, by whom and why; and how that is changed."""

import getpass
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysaas import entry
from raysaas.commands import OUTPUT, Output, Result, command, moment, note_stranger, overrides_argument, table
from raysaas.errors import InputError
from raysaas.records import Task
from raysaas.settings import Settings

if TYPE_CHECKING:
    from raysaas.records import Release

Act = Callable[[Settings, dict[str, Any]], "Release"]
_KEYS = {one.name for one in fields(Settings)}
_COLUMNS = ("sequence", "at", "actor", "change", "reason")

reason_option = click.option("--reason", default="by hand", help="Why; it stays in the release history.")
use_case_argument = click.argument("use_case")


class Version(click.ParamType):
    """A model version as the registry numbers them: 4, or v4 as other commands call it."""

    name = "version"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error for other text."""
        number = value.removeprefix("v")
        if not (number.isascii() and number.isdigit()):
            self.fail(f"{value!r} is no version: expected its number, such as 4 or v4.", param, ctx)
        return int(number)


version_argument = click.argument("version", type=Version())


@click.command("releases")
@use_case_argument
@overrides_argument
@command
def releases(use_case: str, overrides: tuple[str, ...]) -> Result:
    """Show every release of a use case, newest first: when, who, what changed, why."""
    from raysaas import releases as verbs

    output: Output = click.get_current_context().meta[OUTPUT]
    settings = _settings(use_case, overrides)
    told, compared = verbs.history(settings), verbs.comparison(settings)
    if output.as_json:
        return {"use_case": use_case, "releases": told, "comparison": compared}
    rows = [[moment(one[key]) if key == "at" else one[key] for key in _COLUMNS] for one in told]
    output.write(table(_COLUMNS, rows) if told else f"{use_case} has no release yet.\n")
    metric = "AUC" if settings.use_case.task is Task.binary else "mean loss"
    for name, contest in compared.get("contests", {}).items():
        gain, num = contest["gain"], contest["outcomes"]
        known = f"{gain:+.4f} {metric} against the champion (+ is better)" if gain else "no difference is known yet"
        output.write(f"{name} (version {contest['version']}): {known}, after {num} outcomes of its decisions\n")
    return None


@click.command("promote")
@use_case_argument
@version_argument
@click.option("--tenant", help="For this tenant only.")
@reason_option
@overrides_argument
@command
def promote(use_case: str, version: int, tenant: str | None, reason: str, overrides: tuple[str, ...]) -> Result:
    """Make a version the champion that answers, or with --tenant the one that answers a tenant."""
    from raysaas import releases as verbs

    def act(settings: Settings, by: dict[str, Any]) -> "Release":
        if tenant is not None:
            note_stranger(settings, tenant)
        return verbs.promote_version(settings, version, **by, tenant=tenant)

    return _done(use_case, overrides, reason, act)


@click.command("rollback")
@use_case_argument
@click.option("--tenant", help="This tenant's version only.")
@reason_option
@overrides_argument
@command
def rollback(use_case: str, tenant: str | None, reason: str, overrides: tuple[str, ...]) -> Result:
    """Undo the latest step: end a canary, shadow or A/B test, else return to the champion before."""
    from raysaas import releases as verbs

    return _done(use_case, overrides, reason, lambda s, by: verbs.rollback(s, **by, tenant=tenant))


@click.command("canary")
@use_case_argument
@version_argument
@click.option("--share", type=float, help="Of the traffic, 0 to 1; default: the first of release.stages.")
@reason_option
@overrides_argument
@command
def canary(use_case: str, version: int, share: float | None, reason: str, overrides: tuple[str, ...]) -> Result:
    """Let a version answer a share of the traffic, to grow, be promoted or rolled back by what is measured."""
    from raysaas import releases as verbs

    return _done(use_case, overrides, reason, lambda s, by: verbs.canary(s, version, **by, share=share))


@click.command("shadow")
@use_case_argument
@version_argument
@reason_option
@overrides_argument
@command
def shadow(use_case: str, version: int, reason: str, overrides: tuple[str, ...]) -> Result:
    """Let a version score all requests and answer none."""
    from raysaas import releases as verbs

    return _done(use_case, overrides, reason, lambda s, by: verbs.shadow(s, version, **by))


@click.command("ab")
@use_case_argument
@click.argument("words", metavar="NAME=VERSION:SHARE... [OVERRIDES]...", nargs=-1, required=True)
@reason_option
@command
def ab(use_case: str, words: tuple[str, ...], reason: str) -> Result:
    """Compare versions by name on real traffic.

    For example: raysaas ab churn trees=4:0.2 network=5:0.2 (the champion answers the rest).
    """
    from raysaas import releases as verbs

    named = [word for word in words if ":" in word and word.partition("=")[0].partition(".")[0] not in _KEYS]
    variants = dict(_variant(word) for word in named)
    if not variants or len(variants) < len(named):
        raise InputError("Name each variant once, as NAME=VERSION:SHARE, for example trees=4:0.2.")
    rest = tuple(word for word in words if word not in named)
    return _done(use_case, rest, reason, lambda s, by: verbs.ab(s, variants, **by))


@click.command("freeze")
@use_case_argument
@reason_option
@overrides_argument
@command
def freeze(use_case: str, reason: str, overrides: tuple[str, ...]) -> Result:
    """Let nothing change, neither by people nor by itself, until it is unfrozen."""
    from raysaas import releases as verbs

    return _done(use_case, overrides, reason, lambda s, by: verbs.freeze(s, **by))


@click.command("unfreeze")
@use_case_argument
@reason_option
@overrides_argument
@command
def unfreeze(use_case: str, reason: str, overrides: tuple[str, ...]) -> Result:
    """Let releases change again."""
    from raysaas import releases as verbs

    return _done(use_case, overrides, reason, lambda s, by: verbs.freeze(s, **by, frozen=False))


COMMANDS = (releases, promote, rollback, canary, shadow, ab, freeze, unfreeze)


def _done(use_case: str, overrides: tuple[str, ...], reason: str, act: Act) -> Result:
    from raysaas import releases as verbs

    settings = _settings(use_case, overrides)
    before = verbs.sequence(settings)
    release = act(settings, {"actor": _user(), "reason": reason})
    changed = verbs.history(settings)[0]["change"] if release.sequence != before else "nothing: it was so already"
    return {"use_case": use_case, "changed": changed, **verbs.answering(release), "reason": release.reason}


def _user() -> str:
    """Who is at the terminal; also where no variable says it, as in a container."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return "unknown"


def _settings(use_case: str, overrides: tuple[str, ...]) -> Settings:
    """Those that the use case was deployed with, and over them what is given: others would deploy it anew."""
    settings = entry.compose([f"use_case={use_case}", *overrides])
    deployed = Path(settings.storage.home) / "deployed" / f"{use_case}.json"
    return entry.amended(entry.saved(deployed), settings, overrides) if deployed.exists() else settings


def _variant(word: str) -> tuple[str, tuple[int, float]]:
    name, _, told = word.partition("=")
    version, _, share = told.partition(":")
    try:
        return name, (int(version.removeprefix("v")), float(share))
    except ValueError as error:
        raise InputError(f"{word!r} is no variant: expected NAME=VERSION:SHARE, for example trees=4:0.2.") from error
