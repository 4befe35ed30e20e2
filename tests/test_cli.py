"""The ``raysaas`` command's door: one JSON object on stdout, exit codes, no trace-back for an expected mistake."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from raysaas import cli
from raysaas.errors import InputError, Unavailable


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``--debug`` sets RAYSAAS_DEBUG for the whole process."""
    monkeypatch.setenv("RAYSAAS_DEBUG", "")
    monkeypatch.delenv("RAYSAAS_DEBUG")
    yield
    os.environ.pop("RAYSAAS_DEBUG", None)


Outcome = tuple[int, str, str]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a function as a command with some flags; returns exit code, stdout and stderr of the process."""

    def run(function: Callable[[], Any], *flags: str) -> Outcome:
        made = click.command("made")(cli.command(function))
        try:
            made.main(list(flags), standalone_mode=False)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return code, said.out, said.err

    return run


NOISY = """
import os, subprocess, sys, click
from raysaas import cli

def noisy():
    print("a library prints")
    os.write(1, b"a C library writes\\n")
    subprocess.run([sys.executable, "-c", "print('a child prints')"], check=True)
    return {"rows": 3, "nothing": None, "path": "."}

click.command("noisy")(cli.command(noisy))()
"""


def noisy(*flags: str) -> "subprocess.CompletedProcess[str]":
    """A command that writes to stdout in every way a library can, then returns a result."""
    command = [sys.executable, "-c", NOISY, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> None:
        raise error

    return fail


def test_json_is_one_object_on_stdout_and_all_else_on_stderr() -> None:
    done = noisy("--json")
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout) == {"rows": 3, "nothing": None, "path": "."}
    for said in ("a library prints", "a C library writes", "a child prints"):
        assert said in done.stderr


def test_without_json_a_person_reads_what_is_there() -> None:
    assert noisy().stdout == "rows: 3\npath: .\n"


@pytest.mark.parametrize(
    ("error", "code"), [(InputError("the file is empty"), 65), (Unavailable("no head is running"), 75)]
)
def test_an_expected_error_is_one_sentence_and_its_code(
    error: Exception, code: int, call: Callable[..., Outcome]
) -> None:
    assert call(raising(error), "--json") == (code, "", f"error: {error}\n")
    debugged = call(raising(error), "--json", "--debug")
    assert debugged[:2] == (code, "")
    assert "Traceback" in debugged[2]


def test_an_expected_error_behind_another_keeps_its_code(call: Callable[..., Outcome]) -> None:
    wrapped = RuntimeError("a worker died")
    wrapped.__cause__ = InputError("column 'x' is missing")
    assert call(raising(wrapped)) == (65, "", "error: column 'x' is missing\n")


def test_a_bug_is_called_a_bug(call: Callable[..., Outcome]) -> None:
    code, out, err = call(raising(ZeroDivisionError("x / 0")), "--json")
    assert (code, out) == (1, "")
    assert "ZeroDivisionError: x / 0" in err
    assert err.endswith("error: this is a bug in raysaas; the trace-back above says where.\n")


def test_every_command_takes_json_and_debug() -> None:
    def leaves(group: click.Group) -> Iterator[click.Command]:
        for each in group.commands.values():
            yield from leaves(each) if isinstance(each, click.Group) else [each]

    names = {each.name for each in leaves(cli.main)}
    assert names >= {"up", "down", "demo", "init", "run", "submit", "status", "create", "promote", "rollback", "why"}
    for each in leaves(cli.main):
        assert {"as_json", "debug"} <= {parameter.name for parameter in each.params}, each.name


def test_forgetting_asks_first_and_takes_no_answer_for_no(home: Path) -> None:
    command = [sys.executable, "-m", "raysaas.cli", "data", "forget", "all", "--tenant", "acme", f"home={home}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.endswith("error: Nothing was removed: answer y, or give --yes.\n")
    assert not home.exists()
