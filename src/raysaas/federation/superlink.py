"""Flower's own processes: one SuperLink and one SuperNode per site, with TLS, node keys and private homes.

Everything a process needs lies in one private folder; nothing outlives :meth:`Federation.close`, also when this process
dies (the kernel then sends the children SIGTERM).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import psutil

from raysaas.errors import Unavailable
from raysaas.federation.credentials import Credentials

CONNECTION = "raysaas"
# Serve's proxy owns 8000; the SuperLink would take it by default.
_NEVER = {8000}
_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on right now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count + len(_NEVER))]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    return [port for port in ports if port not in _NEVER][:count]


def environment(home: Path) -> dict[str, str]:
    """The environment of a Flower process: private home, nothing phones home, short polls, one thread."""
    binaries = str(Path(sys.executable).parent)
    return os.environ | {
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "OMP_NUM_THREADS": "1",
    }


class Process:
    """One server in its own process group, with its log file."""

    def __init__(self, name: str, command: list[str], home: Path, log: Path) -> None:
        self.name, self.log = name, log
        home.mkdir(mode=0o700, exist_ok=True)
        guarded = [sys.executable, "-c", _DIE_WITH_PARENT, *command]
        with self.log.open("wb") as stream:
            self._process = _spawn(guarded, home, stream)

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def tail(self, num_lines: int = 6) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(line for line in lines[-num_lines:] if line.strip())

    def signal(self, number: int) -> None:
        """Send a signal to the whole group; a group that is gone is fine."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def reap(self, timeout_s: float) -> None:
        """Wait for the end, then kill what is left of the group."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        self.signal(signal.SIGKILL)
        self._process.wait()


def _spawn(command: list[str], home: Path, stream: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=home,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


class Federation:
    """A running SuperLink with its SuperNodes, as a context manager.

    ``sites`` maps a site's name to the Parquet file of its rows; ``home`` is a private folder, ``logs`` a kept one.
    Raises Unavailable when a process does not start or dies; its message holds the end of that process's log.
    """

    def __init__(self, home: Path, logs: Path, sites: Mapping[str, Path], *, start_timeout_s: float = 60.0) -> None:
        self.home, self.logs, self._sites, self._start_timeout_s = home, logs, dict(sites), start_timeout_s
        self.superlink: Process | None = None
        self._executor: Process | None = None
        self.nodes: list[Process] = []

    def __enter__(self) -> "Federation":
        self.logs.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self.credentials = Credentials.create(self.home / "keys", len(self._sites))
        port, *node_ports = free_ports(1 + len(self._sites))
        self.address = f"127.0.0.1:{port}"
        self._write_connection()
        self.superlink = self._server("superlink", self._superlink_command(port))
        self._await_port(port)
        self._executor = self._server("executor", self._executor_command())
        with ThreadPoolExecutor(len(self._sites)) as pool:
            list(pool.map(self._register, self.credentials.node_keys))
        for index, node_port in enumerate(node_ports):
            name = list(self._sites)[index]
            self.nodes.append(self._server(name, self._node_command(index, name, node_port)))

    def _server(self, name: str, command: list[str]) -> Process:
        return Process(name, command, self.home / name, self.logs / f"{name}.log")

    def _write_connection(self) -> None:
        (self.home / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{self.address}"\n'
            f'root-certificates = "{self.credentials.ca}"\n'
        )
        from raysaas.federation.control import write_login  # Flower takes half a second to import

        write_login(self.home, self.address, self.credentials.control)

    def _superlink_command(self, port: int) -> list[str]:
        keys = self.credentials
        return [
            sys.executable,
            "-m",
            "raysaas.federation.control",
            str(keys.control),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--enable-supernode-auth",
            "--ssl-ca-certfile",
            str(keys.ca),
            "--ssl-certfile",
            str(keys.certificate),
            "--ssl-keyfile",
            str(keys.key),
            "--isolation",
            "process",  # in which the executor, which is not the SuperLink's own child, must show a secret
            "--superexec-auth-secret-file",
            str(keys.executor),
            "--disable-runtime-dependency-installation",
        ]

    def _executor_command(self) -> list[str]:
        return [
            "flower-superexec",
            "--runtime-api-address",
            self.address,
            "--root-certificates",
            str(self.credentials.ca),
            "--superexec-auth-secret-file",
            str(self.credentials.executor),
        ]

    def _node_command(self, index: int, name: str, port: int) -> list[str]:
        return [
            "flower-supernode",
            "--superlink",
            self.address,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--root-certificates",
            str(self.credentials.ca),
            "--auth-supernode-private-key",
            str(self.credentials.node_keys[index]),
            "--max-retries",
            "10",
            "--node-config",
            f'site="{name}" index={index} rows="{self._sites[name]}"',
        ]

    def _register(self, private_key: Path) -> None:
        self.flwr("supernode", "register", f"{private_key}.pub", CONNECTION)

    def _await_port(self, port: int) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            self.check(min_nodes=0)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.05)
        raise Unavailable(f"The SuperLink did not open port {port} in {self._start_timeout_s:.0f} s; see {self.logs}.")

    def flwr(self, *arguments: str) -> str:
        """Run one ``flwr`` command against the SuperLink and return what it printed."""
        done = subprocess.run(
            ["flwr", *arguments],
            cwd=self.home,
            env=environment(self.home),
            capture_output=True,
            text=True,
            timeout=self._start_timeout_s,
            check=False,
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[-600:]
            raise Unavailable(f"`flwr {' '.join(arguments)}` failed with exit code {done.returncode}: {said}")
        return done.stdout

    def check(self, min_nodes: int) -> None:
        """Raise Unavailable when the SuperLink is dead or fewer than ``min_nodes`` SuperNodes live."""
        for name, process in (("SuperLink", self.superlink), ("executor of the SuperLink", self._executor)):
            if process is not None and not process.alive:
                raise Unavailable(f"The {name} died; the end of {process.log}:\n{process.tail()}")
        dead = [node for node in self.nodes if not node.alive]
        if len(self.nodes) - len(dead) < min_nodes:
            ends = "\n".join(f"{node.name}, the end of {node.log}:\n{node.tail()}" for node in dead)
            raise Unavailable(
                f"{len(dead)} of {len(self.nodes)} SuperNodes died and at least {min_nodes} must live: "
                f"run the job again.\n{ends}"
            )

    def close(self) -> None:
        """Stop every process that was started; safe to call twice."""
        processes = [*self.nodes, *(one for one in (self._executor, self.superlink) if one)]
        for process in processes:
            process.signal(signal.SIGTERM)
        for process in processes:
            process.reap(timeout_s=2.0)
        # What has left its group by now is found by its Flower home.
        left = _processes_below(self.home)
        for stray in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                stray.kill()
        psutil.wait_procs(left, timeout=5.0)
        self.nodes, self.superlink, self._executor = [], None, None


def _processes_below(home: Path) -> list[psutil.Process]:
    """Every process whose Flower home lies in this run's folder, whoever its parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.environ().get("FLWR_HOME", "/")).is_relative_to(home):
                found.append(process)
    return found
