"""The agent's life: files in, answers out, outcomes away, training when asked; a lost network stops none of it.

Drop ``NAME.rows.jsonl`` or ``NAME.outcomes.jsonl`` into ``HOME/inbox`` (write elsewhere, then rename). Answers appear
as ``HOME/outbox/NAME.decisions.jsonl``; a file that is wrong moves to ``HOME/refused`` with its reason beside it.
"""

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from raysaas.errors import ConfigError, RaysaasError, Terminal

if TYPE_CHECKING:
    from raysaas_edge.agent import Agent

log = logging.getLogger("raysaas_edge")
_ROWS, _OUTCOMES = ".rows.jsonl", ".outcomes.jsonl"
# Files are looked for this often; bundle, uplink and training have the slower rhythm of `poll_s`.
_INBOX_S = 0.2


def run(agent: "Agent", stop: threading.Event | None = None) -> int:
    """Work until ``stop`` (by default SIGTERM or SIGINT); returns the number of slow cycles."""
    stop = stop or _until_signal()
    supernode, cycles = SuperNodeProcess(agent), 0
    steps: list[Callable[[], object]] = [agent.pull, lambda: take_inbox(agent)]
    if agent.config.cluster:
        steps.append(agent.send)
    if agent.config.supernode:
        steps.append(supernode.keep)
    try:
        while not stop.is_set():
            for step in steps:
                _attempt(step)
            cycles += 1
            for _ in range(max(1, round(agent.config.poll_s / _INBOX_S))):
                if stop.wait(_INBOX_S):
                    break
                _attempt(lambda: take_inbox(agent))
    finally:
        supernode.stop()
    return cycles


def _attempt(step: Callable[[], object]) -> None:
    try:
        step()
    except RaysaasError as error:
        log.warning("%s", error)


def _until_signal() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def take_inbox(agent: "Agent") -> int:
    """Handle every file that was dropped, oldest name first; returns their number."""
    folders = {name: agent.config.home / name for name in ("inbox", "outbox", "refused")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # Rows wait for the first bundle; outcomes need none.
    endings = (_ROWS, _OUTCOMES) if agent.ready else (_OUTCOMES,)
    files = sorted(path for path in folders["inbox"].iterdir() if path.name.endswith(endings))
    for path in files:
        try:
            _take(agent, path, folders["outbox"])
        except Terminal as error:
            log.warning("%s was refused: %s", path.name, error)
            (folders["refused"] / f"{path.name}.reason").write_text(f"{error}\n")
            path.replace(folders["refused"] / path.name)
        else:
            path.unlink()
    return len(files)


def _take(agent: "Agent", path: Path, outbox: Path) -> None:
    from raysaas_edge.agent import read_lines

    if path.name.endswith(_OUTCOMES):
        agent.outcome(read_lines(path))
        return
    decisions = agent.predict(read_lines(path))
    part = outbox / f".{path.name}.part"
    part.write_text("".join(json.dumps(each) + "\n" for each in decisions))
    part.replace(outbox / f"{path.name.removesuffix(_ROWS)}.decisions.jsonl")


class SuperNodeProcess:
    """This site's SuperNode: started once there are rows to train on, started again when it ends.

    After a crash Flower turns the same key away until its heartbeat has lapsed, up to a minute; then it joins again.
    """

    def __init__(self, agent: "Agent") -> None:
        self._agent = agent
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def keep(self) -> None:
        """Refresh the rows and see that the SuperNode runs."""
        if self._agent.export() == 0 or self.pid is not None:
            return
        self._sweep()
        home = self._agent.config.home / "flower"
        home.mkdir(mode=0o700, exist_ok=True)
        binaries = Path(sys.executable).parent
        environment = os.environ | {
            "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        }
        with (home / "supernode.log").open("ab") as stream:
            self._process = subprocess.Popen(
                self._command(),
                env=environment,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        log.info("SuperNode started with pid %s", self._process.pid)

    def _command(self) -> list[str]:
        config = self._agent.config
        node = config.supernode
        if node is None:
            raise ConfigError("supernode is not set in edge.yaml.")
        return [
            "flower-supernode",
            "--superlink",
            node.superlink,
            "--root-certificates",
            node.root_certificates,
            "--auth-supernode-private-key",
            node.private_key,
            "--host",
            "127.0.0.1",
            "--port",
            str(node.port),
            "--node-config",
            f'site="{config.site}" index={node.index} rows="{self._agent.rows}"',
        ]

    def stop(self) -> None:
        """Stop it and everything it started."""
        if self._process is not None and self.pid is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        self._sweep()

    def _sweep(self) -> None:
        # Its executor shares its group and can outlive it.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
