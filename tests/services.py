"""Real servers for tests: PostgreSQL and Redis from Debian's packages, each private to the session, on a free port.

A package that is not there is installed once (root and apt needed); where that cannot be done, the test that needs it
is skipped with the reason.
"""

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres() -> Iterator[str]:
    """A fresh PostgreSQL server; yields SQLAlchemy's URL of an empty database."""
    bin_dir = Path(_binary("postgresql", lambda: _newest_postgres("postgres"))).parent
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    as_owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    if as_owner:
        shutil.chown(folder, "postgres", "postgres")
    port, data = _free_port(), folder / "data"
    _run([*as_owner, str(bin_dir / "initdb"), "-D", str(data), "-U", "raysaas", "-A", "trust", "-E", "UTF8", "-N"])
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    _run([*as_owner, str(bin_dir / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-l", str(folder / "log"), "start"])
    try:
        yield f"postgresql+psycopg://raysaas@127.0.0.1:{port}/postgres"
    finally:
        _run([*as_owner, str(bin_dir / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop"])
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis(*options: str, port: int | None = None) -> Iterator[str]:
    """A fresh Redis server without persistence, on a free port unless one is given; yields its URL."""
    binary, port = _binary("redis-server", lambda: shutil.which("redis-server")), port or _free_port()
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *options]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        _await_port(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(10)


def _newest_postgres(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return str(found[-1]) if found else None


def _binary(package: str, find: Callable[[], str | None]) -> str:
    """Where the program of a Debian package is; installs the package when it is missing."""
    with Path(tempfile.gettempdir(), "raysaas-apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        reason = "" if find() else _install(package)
    return find() or pytest.skip(f"the Debian package {package} is not here and cannot be installed: {reason}")


def _install(package: str) -> str:
    """Install a package without starting its service; returns why that failed, or nothing."""
    if os.geteuid() or not shutil.which("apt-get"):
        return "that needs root and apt-get"
    # A service of the machine's own would take ports: what is installed here is never started by the package.
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", package]):
        command = ["apt-get", "-qq", *arguments]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    return done.stderr.strip()[-300:] if done.returncode else ""


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd="/tmp", check=False)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port} after {timeout_s} s")
