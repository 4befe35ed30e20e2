"""Processes: what can be tested without Flower's servers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raysaas.errors import Unavailable
from raysaas.federation.superlink import Federation, Process, environment, free_ports


def test_ports_are_free_different_and_not_serves() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert 8000 not in ports


def test_nothing_phones_home_and_the_home_is_private(tmp_path: Path) -> None:
    made = environment(tmp_path)
    assert made["FLWR_TELEMETRY_ENABLED"] == "0"
    assert made["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert made["FLWR_HOME"] == str(tmp_path)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_reaping_ends_the_whole_group_even_when_it_ignores_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    process = Process("stubborn", [sys.executable, "-c", code], tmp_path / "home", tmp_path / "log")
    deadline = time.monotonic() + 20
    while not process.tail():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child = int(process.tail())
    process.signal(signal.SIGTERM)
    assert process.alive
    process.reap(timeout_s=0.2)
    assert not process.alive
    deadline = time.monotonic() + 5
    while _exists(child):
        assert time.monotonic() < deadline, "the group's child lives on"
        time.sleep(0.02)


def test_a_dead_process_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    federation = Federation(tmp_path, tmp_path / "logs", {"site-0": tmp_path / "rows.parquet"})
    code = "print('certificate expired'); raise SystemExit(3)"
    dead = Process("site-0", [sys.executable, "-c", code], tmp_path / "home", tmp_path / "site-0.log")
    dead.reap(timeout_s=20)
    federation.nodes = [dead]
    with pytest.raises(Unavailable, match=r"(?s)1 of 1 SuperNodes died.*certificate expired"):
        federation.check(min_nodes=1)
    federation.check(min_nodes=0)
    federation.close()


def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from raysaas.federation.superlink import Process\n"
        f"home = Path({str(tmp_path)!r})\n"
        "code = 'print(1, flush=True); import time; time.sleep(60)'\n"
        "made = Process('s', [sys.executable, '-c', code], home / 'h', home / 'l')\n"
        "while not made.tail(): pass\n"
        "print(made.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    deadline = time.monotonic() + 5
    while _exists(int(done.stdout)):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.02)
