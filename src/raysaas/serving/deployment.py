"""The one writer of Serve's declarative configuration.

Serve takes the whole configuration of all applications at once (PUT ``/api/serve/applications/``), so two writers would
undo each other: every change here reads, merges and writes under a file lock. A change of ``user_config`` alone reaches
the running replicas as a message; anything else replaces them.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from raysaas.errors import CorruptBundle, NotFound, Unavailable
from raysaas.records import Release
from raysaas.serving.spec import DEPLOYMENT, AppSpec
from raysaas.settings import Cluster, Serve, Settings
from raysaas.stores.online import online_views

_PATH = "/api/serve/applications/"
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}
_POLL_S = 0.05
_ROUNDS = 6  # times each replica is expected to get its turn before we look again


def serve_environment(
    folder: str | Path | None = None, *, stats_port: int = 8404, metrics_port: int = 9101
) -> dict[str, str]:
    """Environment that must be set before ``ray start`` on every node, for Serve's fast path.

    ``folder`` takes HAProxy's config and sockets. Ray puts 57 bytes of node id behind it and HAProxy takes at most 97
    for a socket, so it may have 37. Two clusters on one machine need folders and ports of their own.
    """
    folder = folder or f"/tmp/raysaas-serve-{os.getuid()}"
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Computed before the throughput override is applied, so it has to be said as well.
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/a",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/m",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        # Requests take milliseconds: draining for 30 s and holding ports for 150 s only slows deploys down.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "20",
    }


def app_config(settings: Settings, release: Release, import_path: str) -> dict[str, Any]:
    """The use case's entry of Serve's config file; ``import_path`` names a function that calls ``app.build``."""
    use_case = settings.use_case
    spec = AppSpec(
        use_case=use_case.name,
        task=use_case.task,
        title=use_case.title,
        storage=settings.storage,
        serve=settings.serve,
        views=tuple(online_views(use_case)),
    )
    return {
        "name": use_case.name,
        "route_prefix": f"/{use_case.name}",
        "import_path": import_path,
        "args": spec.to_dict() | {"drift": asdict(settings.drift)},
        "deployments": [{"name": DEPLOYMENT, "user_config": release_config(release)}],
    }


def release_config(release: Release) -> dict[str, Any]:
    """What of a release the replicas need: the application's ``user_config``."""
    arms = {name: getattr(release, name) for name in ("champion", "challenger", "shadow")}
    return {
        "sequence": release.sequence,
        "challenger_share": release.challenger_share,
        **{name: asdict(arm) if arm else None for name, arm in arms.items()},
    }


def apply_release(
    settings: Settings, release: Release, import_path: str, *, dashboard_url: str | None = None, port: int | None = None
) -> None:
    """Make ``release`` answer: as a message when the application runs unchanged, else by deploying it.

    ``dashboard_url`` and ``port`` (of HTTP) are those of a head on other ports than the settings say. Raises what
    :meth:`Deployments.apply` and :meth:`Deployments.switch` raise.
    """
    cluster, serve = settings.cluster, replace(settings.serve, port=port or settings.serve.port)
    url = dashboard_url or f"http://{cluster.bind}:{cluster.dashboard_port}"
    deployments = Deployments(url, home=settings.storage.home, cluster=cluster, serve=serve)
    config = app_config(settings, release, import_path)
    if deployments.runs(config):
        deployments.switch(config["name"], release_config(release))
    else:
        deployments.apply(config)


class Deployments:
    """Serve applications of one cluster.

    ``token`` is Ray's own, for clusters in token mode; by default the one that Ray's SDK would send. ``home`` holds the
    lock file.
    """

    def __init__(
        self, dashboard_url: str, token: str | None = None, *, home: str | Path, cluster: Cluster, serve: Serve
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else _ray_headers()
        self._http = httpx.Client(base_url=dashboard_url, headers=headers, timeout=60.0)
        self._lock = Path(home) / "deployments.lock"
        self._options = {"host": cluster.bind, "port": serve.port}
        self._url = f"http://{cluster.bind.replace('0.0.0.0', '127.0.0.1')}:{serve.port}"

    def apply(self, app: Mapping[str, Any], *, timeout_s: float = 180.0) -> None:
        """Deploy an application (its entry of Serve's config file) and wait until all its replicas answer.

        Raises
        ------
        Unavailable
            It does not come up; the message is Serve's own.
        """
        with self._writing():
            details = self.details()
            before = _deployed_at(details, app["name"])
            self._put(_configs(details) | {app["name"]: dict(app)})
            self._await(app["name"], before, _wanted(app), timeout_s)

    def runs(self, app: Mapping[str, Any]) -> bool:
        """Whether the application is up with the same configuration, its release aside."""
        found = self.details()["applications"].get(app["name"])
        deployed = (found or {}).get("deployed_app_config") or {}
        same = all(deployed.get(key) == app[key] for key in ("import_path", "route_prefix", "args"))
        return same and found is not None and found["status"] == "RUNNING"

    def switch(self, use_case: str, user_config: Mapping[str, Any], *, timeout_s: float = 60.0) -> None:
        """Give the running replicas another release; return when each of them answers with its sequence.

        Raises
        ------
        NotFound, CorruptBundle, Unavailable
            No such application; a replica refused the release (all are put back to the one before); it takes too long.
        """
        with self._writing():
            details = self.details()
            configs = _configs(details)
            if use_case not in configs:
                raise NotFound(f"{use_case} is not deployed; deployed are: {', '.join(configs) or 'none'}.")
            before = _deployed_at(details, use_case)
            self._put(configs | {use_case: _with_release(configs[use_case], user_config)})
            try:
                self._await(use_case, before, user_config, timeout_s)
            except CorruptBundle:
                self._put(configs)
                raise

    def remove(self, use_case: str, *, timeout_s: float = 60.0) -> None:
        """Take an application down; nothing happens when it is not up."""
        with self._writing():
            configs = _configs(self.details())
            if configs.pop(use_case, None) is not None:
                self._put(configs)
                _until(lambda: use_case not in self.status(), timeout_s, f"{use_case} is still being removed")

    def status(self) -> dict[str, str]:
        """Application name to Serve's status of it."""
        return {name: app["status"] for name, app in self.details()["applications"].items()}

    def details(self) -> dict[str, Any]:
        """Everything Serve says of itself."""
        return dict(self._request("GET").json())

    def health(self, use_case: str) -> list[dict[str, Any]]:
        """What each running replica says of itself; empty when not all of them answered."""
        return self._replicas(self.details(), use_case)

    def _replicas(self, details: Mapping[str, Any], use_case: str) -> list[dict[str, Any]]:
        # Serve does not tell the replicas' ports: a new connection each time makes the proxy go round them.
        expected = _pids(details["applications"].get(use_case))
        found: dict[int, dict[str, Any]] = {}
        for _ in range(_ROUNDS * len(expected)):
            with suppress(httpx.HTTPError, ValueError, TypeError, KeyError):
                answer = httpx.get(f"{self._url}/{use_case}/health", timeout=5.0).json()
                found[answer["pid"]] = answer
            if found.keys() >= expected:
                return [found[pid] for pid in expected]
        return []

    def _await(self, name: str, before: float, release: Mapping[str, Any] | None, timeout_s: float) -> None:
        def done() -> bool:
            details = self.details()
            app = details["applications"].get(name)
            if app is None or app["last_deployed_time_s"] <= before:
                return False
            if app["status"] in _FAILED:
                raise Unavailable(f"{name} did not come up: {_reason(app)}")
            replicas = self._replicas(details, name)
            if release is not None:
                _check_refused(replicas, release)
            answering = {replica["sequence"] for replica in replicas}
            return app["status"] == "RUNNING" and (release is None or answering == {release["sequence"]})

        _until(done, timeout_s, f"{name} is still being deployed")

    def _put(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        body = {"proxy_location": "EveryNode", "http_options": self._options, "applications": list(configs.values())}
        self._request("PUT", body)

    def _request(self, method: str, body: Any = None) -> httpx.Response:
        try:
            answer = self._http.request(method, _PATH, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"The Ray dashboard {self._http.base_url} does not answer: {error}.") from error
        if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise Unavailable(
                "The Ray dashboard refuses the token: export RAY_AUTH_MODE=token and the cluster's token."
            )
        if answer.is_error:
            raise Unavailable(f"Ray Serve refused the configuration ({answer.status_code}): {answer.text[-500:]}")
        return answer

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _configs(details: Mapping[str, Any]) -> dict[str, Any]:
    apps = details["applications"].items()
    return {name: app["deployed_app_config"] for name, app in apps if app["deployed_app_config"] is not None}


def _pids(app: Mapping[str, Any] | None) -> set[int]:
    deployments = app["deployments"].values() if app else ()
    return {
        replica["pid"]
        for deployment in deployments
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }


def _deployed_at(details: Mapping[str, Any], name: str) -> float:
    app = details["applications"].get(name)
    return float(app["last_deployed_time_s"]) if app else 0.0


def _with_release(app: Mapping[str, Any], user_config: Mapping[str, Any]) -> dict[str, Any]:
    others = [entry for entry in app.get("deployments", []) if entry["name"] != DEPLOYMENT]
    mine = next(
        (dict(entry) for entry in app.get("deployments", []) if entry["name"] == DEPLOYMENT), {"name": DEPLOYMENT}
    )
    return {**app, "deployments": [*others, {**mine, "user_config": dict(user_config)}]}


def _wanted(app: Mapping[str, Any]) -> Mapping[str, Any] | None:
    entries = (entry for entry in app.get("deployments", []) if entry["name"] == DEPLOYMENT)
    return next((entry.get("user_config") for entry in entries), None)


def _check_refused(replicas: list[dict[str, Any]], release: Mapping[str, Any]) -> None:
    for replica in replicas:
        if replica["problem"] and replica["problem"].startswith(f"Release {release['sequence']} "):
            raise CorruptBundle(str(replica["problem"]))


def _reason(app: Mapping[str, Any]) -> str:
    parts = [app["message"], *(deployment["message"] for deployment in app["deployments"].values())]
    return " ".join(part for part in parts if part)[-2000:] or "Serve gives no reason"


def _until(done: Callable[[], bool], timeout_s: float, message: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise Unavailable(f"{message} after {timeout_s:g} s. Look at the Serve tab of the Ray dashboard.")
        time.sleep(_POLL_S)


def _ray_headers() -> dict[str, str]:
    # The same call that Ray's SDK and CLI make; there is no public one.
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))
