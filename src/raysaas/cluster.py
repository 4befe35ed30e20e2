"""The local Ray head: started once, found again, stopped without touching anybody else's processes.

Every process of a head inherits ``RAYSAAS_CLUSTER=<id>`` in its environment; ``down`` ends exactly those. The head's
addresses are kept in ``<home>/head.json``. Flags that Ray and Serve read at import are set here, before any start.
"""

import json
import logging
import os
import random
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from raysaas.errors import ConfigError, InputError, RaysaasError, Unavailable
from raysaas.serving.environment import own_ports, serve_environment
from raysaas.settings import Settings

_MARK = "RAYSAAS_CLUSTER"
_MIN_CPUS = 4
_START_S = 60
_MAX_PORT = 65_535
_SERVE_PORTS, _BLOCK = (20_000, 32_000), 80
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TQDM_DISABLE": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_worker_maximum_startup_concurrency": "8",  # the raylet warns drivers at four times this
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a running head answers. ``id`` marks its processes."""

    id: str
    address: str
    dashboard_url: str
    url: str

    @property
    def port(self) -> int:
        """Serve's HTTP port."""
        return int(self.url.rsplit(":", 1)[1])


def environment(settings: Settings, head: Head) -> dict[str, str]:
    """Environment of every process of the head: Serve's fast path, token authentication, no telemetry."""
    bin_dir = str(Path(sys.executable).parent)
    own = {
        _MARK: head.id,
        "RAY_ADDRESS": head.address,
        "RAYSAAS_HOME": settings.storage.home,
        "PATH": f"{bin_dir}{os.pathsep}{os.environ.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    if settings.data_dir:
        own["RAYSAAS_DATA_DIR"] = _absolute(settings.data_dir)
    return {**os.environ, **_QUIET, **_serve_flags(settings, head), **own}


def _serve_flags(settings: Settings, head: Head) -> dict[str, str]:
    """Serve's flags; with ``serve.port=0`` (a second head on this machine) with ports that no other head uses."""
    flags = serve_environment(_serve_folder(head.id), settings.cluster.bind)
    return flags if settings.serve.port else flags | own_ports(range(head.port, head.port + _BLOCK))


def node_environment() -> dict[str, str]:
    """Environment of every node of a cluster of several machines, for ``cluster.yaml``."""
    return {**_QUIET, **serve_environment(), "OMP_NUM_THREADS": "1"}


def _serve_folder(head_id: str) -> str:
    return f"/tmp/raysaas-{head_id}"


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def current(settings: Settings) -> Head | None:
    """The head that was started for this home, if it still answers."""
    record = Path(settings.storage.home) / "head.json"
    if not record.exists():
        return None
    head = Head(**json.loads(record.read_text()))
    return head if _answers(head) else None


def head(settings: Settings) -> Head:
    """The head to talk to: the local one, or that of ``cluster.address``, whose dashboard is reached on this node."""
    bind = "127.0.0.1" if settings.cluster.bind == "0.0.0.0" else settings.cluster.bind
    remote = Head(
        id="",
        address=settings.cluster.address or "auto",
        dashboard_url=f"http://{bind}:{settings.cluster.dashboard_port}",
        url=f"http://{bind}:{settings.serve.port}",
    )
    return current(settings) or remote


def token() -> str:
    """Ray's authentication token, made (readable by its owner only) when there is none."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    path.chmod(0o600)
    return path.read_text().strip()


def _answers(head: Head) -> bool:
    request = urllib.request.Request(
        f"{head.dashboard_url}/api/version", headers={"Authorization": f"Bearer {token()}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=3) as response:
            # The dashboard outlives a dead control store for a while.
            host, _, port = head.address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=3).close()
            return bool(response.status == 200) and _has_raylet(head.id)
    except (urllib.error.URLError, OSError):
        return False


def _has_raylet(head_id: str) -> bool:
    """Whether the head still runs tasks: dashboard and control store outlive its raylet, and look well."""
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "raylet" and process.environ().get(_MARK) == head_id:
                return bool(process.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            return True  # another user's head: it cannot be told
    return False


def up(settings: Settings) -> Head:
    """Return the running head, started when there is none. Raises ConfigError when a port is taken."""
    if head := current(settings):
        return head
    down(settings)
    token()
    bind, ports = settings.cluster.bind, _ports(settings)
    head = Head(
        id=secrets.token_hex(8),
        address=f"{bind}:{ports['cluster.port']}",
        dashboard_url=f"http://{bind}:{ports['cluster.dashboard_port']}",
        url=f"http://{bind}:{ports['serve.port']}",
    )
    _record(settings, head)
    Path(_serve_folder(head.id)).mkdir(mode=0o700, exist_ok=True)  # HAProxy's admin socket is in there
    # In a session of its own: Ctrl-C on this terminal is not meant for the head.
    started = subprocess.run(
        _command(settings, ports), env=environment(settings, head), capture_output=True, text=True, check=False,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + _START_S
    while started.returncode == 0 and time.monotonic() < deadline:
        if _answers(head):
            return head
        time.sleep(0.3)
    tail = (started.stderr or started.stdout).strip().splitlines()[-3:]
    down(settings)
    raise Unavailable(f"The Ray head did not start: {' '.join(tail) or 'its dashboard does not answer'}.")


def _record(settings: Settings, head: Head) -> None:
    record = Path(settings.storage.home) / "head.json"
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(asdict(head)))
    except OSError as error:
        raise ConfigError(f"home={settings.storage.home} cannot be written: {error.strerror}.") from error


def _command(settings: Settings, ports: Mapping[str, int]) -> list[str]:
    bind = settings.cluster.bind
    cpus = settings.cluster.num_cpus or max(os.cpu_count() or 1, _MIN_CPUS)
    return [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--disable-usage-stats", "--log-style=record"),
        *(f"--node-ip-address={bind}", f"--port={ports['cluster.port']}", f"--num-cpus={cpus}"),
        *(f"--dashboard-host={bind}", f"--dashboard-port={ports['cluster.dashboard_port']}"),
        f"--object-store-memory={settings.cluster.object_store_mb * 1_000_000}",
        *((f"--dashboard-agent-listen-port={_free_port()}",) if not settings.cluster.dashboard_port else ()),
    ]


def _ports(settings: Settings) -> dict[str, int]:
    """The head's ports; 0 in the settings means any free one."""
    wanted = {
        "cluster.port": settings.cluster.port,
        "cluster.dashboard_port": settings.cluster.dashboard_port,
        "serve.port": settings.serve.port,
    }
    for key, port in wanted.items():
        if not 0 <= port <= _MAX_PORT:
            raise ConfigError(f"{key}={port} is not allowed: expected a port from 1 to {_MAX_PORT}, or 0 for any.")
        if port and _taken(settings.cluster.bind, port):
            raise ConfigError(f"Port {port} is taken by another program: stop it or set {key}=0 for any free port.")
    free = {"serve.port": lambda: _free_block(settings.cluster.bind)}
    return {key: port or free.get(key, _free_port)() for key, port in wanted.items()}


def _taken(bind: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError:
            return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _free_block(bind: str) -> int:
    """First of ``_BLOCK`` free ports that the kernel gives to no client: Serve binds them long after this."""
    starts = list(range(*_SERVE_PORTS, _BLOCK))
    random.shuffle(starts)
    free = (start for start in starts if not any(_taken(bind, start + i) for i in range(_BLOCK)))
    return next(free, starts[0])


def down(settings: Settings) -> bool:
    """End every process of the head that was started for this home; False when there was none."""
    record = Path(settings.storage.home) / "head.json"
    if not record.exists():
        return False
    head_id = json.loads(record.read_text())["id"]
    ours = _processes(head_id)
    for signal, wait_s in (("terminate", 2), ("kill", 10)):
        for process in ours:
            try:
                getattr(process, signal)()
            except psutil.NoSuchProcess:
                continue
        _, ours = psutil.wait_procs(ours, timeout=wait_s)
    shutil.rmtree(_serve_folder(head_id), ignore_errors=True)
    record.unlink(missing_ok=True)
    return True


def _processes(head_id: str) -> list[psutil.Process]:
    """Processes that carry the head's mark, and their descendants: Ray's renamed ones have no readable environment."""
    spared = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == head_id:
                found |= {each.pid: each for each in [process, *process.children(recursive=True)]}
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return [process for pid, process in found.items() if pid not in spared]


def connect(settings: Settings, metadata: Mapping[str, str]) -> None:
    """Connect this process to Ray: inside a Ray job to its cluster, else to ``cluster.address`` or the local head."""
    _quiet_ray()
    import ray
    from ray.job_config import JobConfig

    if ray.is_initialized():
        return
    # A Ray job's own cluster is in its environment; "auto" would take the newest one on the machine.
    inside = os.environ.get("RAY_ADDRESS") if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else None
    address = inside or settings.cluster.address or up(settings).address
    ray.init(
        address=address,
        job_config=JobConfig(metadata=dict(metadata)),
        log_to_driver="RAYSAAS_DEBUG" in os.environ,
        logging_level="WARNING",
    )
    _label_submission(metadata)
    _quiet_ray()


def _quiet_ray() -> None:
    """Set what Ray reads at import, and keep its progress lines out of our output."""
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    if "RAYSAAS_DEBUG" not in os.environ:
        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.WARNING)
        for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.working_dir"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _label_submission(metadata: Mapping[str, str]) -> None:
    """Inside a submitted job, add ``metadata`` to what the dashboard lists, which knows the submitter's only."""
    from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    injected = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("metadata") or {}
    key = f"_ray_internal_job_info_{injected.get('job_submission_id')}"
    if known := _internal_kv_get(key, namespace="job"):
        info = json.loads(known)
        info["metadata"] = {**metadata, **(info["metadata"] or {})}
        _internal_kv_put(key, json.dumps(info), namespace="job")


def disconnect() -> None:
    """Leave Ray, if this process is connected."""
    ray = sys.modules.get("ray")
    if ray is not None:
        ray.shutdown()


def submit(settings: Settings, job: str, overrides: list[str], *, wait: bool) -> dict[str, str]:
    """Run a job through the Ray Jobs API on the running head, with this folder as working directory.

    Returns ``job_id``, ``status`` and ``logs``. Raises Unavailable when no head runs.
    """
    running = require(settings)
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(running.dashboard_url)
    _quiet_ray()
    fixed = [_absolute_override(word) for word in overrides]
    job_id = client.submit_job(
        entrypoint=shlex.join(["python", "-m", "raysaas.cli", "run", job, *fixed, "--json"]),
        runtime_env={"working_dir": str(Path.cwd()), "excludes": ["var"]},
        metadata={"use_case": settings.use_case.name, "job": job},
    )
    while wait and not (status := client.get_job_status(job_id)).is_terminal():
        time.sleep(0.5)
    status = client.get_job_status(job_id)
    logs = client.get_job_logs(job_id) if wait else ""
    if wait and status is not JobStatus.SUCCEEDED:
        raise _failed(job_id, str(status), client.get_job_info(job_id).driver_exit_code, logs)
    return {"job_id": job_id, "status": str(status), "logs": logs}


def require(settings: Settings) -> Head:
    """The running head of this home. Raises Unavailable when there is none."""
    if (running := current(settings)) is None:
        raise Unavailable("No head is running: start one with `raysaas up`.")
    return running


def _failed(job_id: str, status: str, exit_code: int | None, logs: str) -> RaysaasError:
    """The job's own sentence, as the kind of error that it ended with."""
    said = [line.removeprefix("error: ") for line in logs.strip().splitlines() if line.startswith("error: ")]
    kind = InputError if exit_code == InputError.exit_code else Unavailable
    return kind(f"Job {job_id} ended as {status}: {said[-1] if said else (logs.strip() or 'no output')[-300:]}")


def _absolute_override(word: str) -> str:
    key, separator, value = word.partition("=")
    return f"{key}={_absolute(value)}" if separator and key in ("data_dir", "home") else word
