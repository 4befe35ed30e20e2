"""The one writer of Serve's declarative configuration.

Serve takes the whole configuration of all applications at once (PUT ``/api/serve/applications/``), so two writers would
undo each other: every change here reads, merges and writes under a file lock. A change of ``user_config`` alone reaches
the running replicas as a message; anything else replaces them.
"""

import fcntl
import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx

from raysaas.errors import ConfigError, CorruptBundle, NotFound, Unavailable
from raysaas.records import Release
from raysaas.serving.config import app_config, configs, release_config, wanted, with_release
from raysaas.serving.environment import serve_environment
from raysaas.settings import Cluster, Serve, Settings

__all__ = ["Deployments", "app_config", "apply_release", "release_config", "serve_environment"]

logger = logging.getLogger(__name__)

_PATH = "/api/serve/applications/"
_NODES = "/api/v0/nodes"
_FAILED = {"DEPLOY_FAILED", "UNHEALTHY"}
_REFUSED = re.compile(rf"{CorruptBundle.__name__}: (.+)")
_POLL_S = 0.05
_ROUNDS = 3  # times all replicas are asked before we look again
_AT_ONCE = 4  # requests for each replica in a round


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
        self._grows = cluster.multi_node
        door = f"http://{cluster.bind.replace('0.0.0.0', '127.0.0.1')}:{serve.port}"
        self._door = httpx.Client(base_url=door, timeout=5.0)

    def apply(self, app: Mapping[str, Any], *, timeout_s: float = 180.0) -> None:
        """Deploy an application (its entry of Serve's config file) and wait until all its replicas answer.

        Raises
        ------
        ConfigError, Unavailable
            It asks for a GPU and this machine has none; it does not come up, the message is Serve's own.
        """
        self._check_gpus(app)
        with self._writing():
            details = self.details()
            before = _deployed_at(details, app["name"])
            self._put(configs(details) | {app["name"]: dict(app)})
            self._await(app["name"], before, wanted(app), timeout_s)

    def _check_gpus(self, app: Mapping[str, Any]) -> None:
        """A replica that asks for more than there is would wait for ever, unless nodes may still join."""
        wanted = app.get("args", {}).get("serve", {}).get("num_gpus", 0)
        if not wanted or self._grows:
            return
        nodes = self._request("GET", path=_NODES).json()["data"]["result"]["result"]
        found = sum(node["resources_total"].get("GPU", 0) for node in nodes if node["state"] == "ALIVE")
        if wanted > found:
            raise ConfigError(
                f"serve.num_gpus={wanted:g} is not possible for {app['name']}: Ray counts {found:g} GPUs on this "
                "machine. Set serve.num_gpus=0 to serve on the CPU, or start the head on a machine with a GPU."
            )

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
            deployed = configs(details)
            if use_case not in deployed:
                raise NotFound(f"{use_case} is not deployed; deployed are: {', '.join(deployed) or 'none'}.")
            before = _deployed_at(details, use_case)
            if _sleeps(details["applications"][use_case]):  # a replica that answers can refuse what is broken
                self._await(use_case, -math.inf, wanted(deployed[use_case]), timeout_s)
            self._put(deployed | {use_case: with_release(deployed[use_case], user_config)})
            try:
                self._await(use_case, before, user_config, timeout_s)
            except CorruptBundle:
                self._put(deployed)
                raise

    def remove(self, use_case: str, *, timeout_s: float = 60.0) -> None:
        """Take an application down; nothing happens when it is not up."""
        with self._writing():
            deployed = configs(self.details())
            if deployed.pop(use_case, None) is not None:
                self._put(deployed)
                _until(lambda: use_case not in self.status(), timeout_s, f"{use_case} is still being removed")

    def status(self) -> dict[str, str]:
        """Application name to Serve's status of it."""
        return {name: app["status"] for name, app in self.details()["applications"].items()}

    def details(self) -> dict[str, Any]:
        """Everything Serve says of itself."""
        return dict(self._request("GET").json())

    def health(self, use_case: str, *, timeout_s: float = 5.0) -> list[dict[str, Any]]:
        """What each running replica says of itself; empty when there is none, or not all of them answered in time.

        A proxy that has just heard of a replica sends it nothing for half a second, until it has checked it twice.
        """
        ends = time.monotonic() + timeout_s
        while True:
            details = self.details()
            found = self._replicas(details, use_case)
            if found or not _pids(details["applications"].get(use_case)) or time.monotonic() > ends:
                return found
            time.sleep(_POLL_S)

    def _replicas(self, details: Mapping[str, Any], use_case: str) -> list[dict[str, Any]]:
        # Serve does not tell the replicas' ports, and its proxy sends each request to the replica with the fewest in
        # flight: many at once reach a replica that one slow client keeps busier than the rest.
        app = details["applications"].get(use_case)
        expected = _pids(app)
        at_once = _AT_ONCE * len(expected) or int(_sleeps(app))  # asking makes Serve start a first one
        found: dict[int, dict[str, Any]] = {}
        for _ in range(_ROUNDS if at_once else 0):
            with ThreadPoolExecutor(at_once) as pool:
                answers = pool.map(self._ask, [f"/{use_case}/health"] * at_once)
                found |= {answer["pid"]: answer for answer in answers if answer}
            if found.keys() >= expected:
                return [found[pid] for pid in expected]
        return []

    def _ask(self, path: str) -> dict[str, Any] | None:
        with suppress(httpx.HTTPError, ValueError, TypeError, KeyError):
            answer = self._door.get(path).json()
            return answer if "pid" in answer else None
        return None

    def _await(self, name: str, before: float, release: Mapping[str, Any] | None, timeout_s: float) -> None:
        told = [""]

        def done() -> bool:
            details = self.details()
            app = details["applications"].get(name)
            if app is None or app["last_deployed_time_s"] <= before:
                return False
            if app["status"] in _FAILED:
                if refused := _REFUSED.search(_said(app)):  # by a replica that was being started
                    raise CorruptBundle(refused[1])
                raise Unavailable(f"{name} did not come up: {_reason(app)}")
            if (said := _said(app)) and said != told[-1]:  # after 30 s: what a replica asks for and no node has
                told.append(said)
                logger.warning("%s is being deployed: %s", name, said)
            replicas = self._replicas(details, name)
            if release is not None:
                _check_refused(replicas, release)
            answering = {replica["sequence"] for replica in replicas}
            return app["status"] == "RUNNING" and (release is None or answering == {release["sequence"]})

        _until(done, timeout_s, f"{name} is still being deployed", lambda: told[-1])

    def _put(self, configs: Mapping[str, Mapping[str, Any]]) -> None:
        body = {"proxy_location": "EveryNode", "http_options": self._options, "applications": list(configs.values())}
        self._request("PUT", body)

    def _request(self, method: str, body: Any = None, path: str = _PATH) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=body)
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


def _pids(app: Mapping[str, Any] | None) -> set[int]:
    deployments = app["deployments"].values() if app else ()
    return {
        replica["pid"]
        for deployment in deployments
        for replica in deployment["replicas"]
        if replica["state"] == "RUNNING"
    }


def _sleeps(app: Mapping[str, Any] | None) -> bool:
    """Whether an application has no replica because nobody asks it."""
    return app is not None and app["status"] == "RUNNING" and not _pids(app)


def _deployed_at(details: Mapping[str, Any], name: str) -> float:
    app = details["applications"].get(name)
    return float(app["last_deployed_time_s"]) if app else 0.0


def _check_refused(replicas: list[dict[str, Any]], release: Mapping[str, Any]) -> None:
    for replica in replicas:
        if replica["problem"] and replica["problem"].startswith(f"Release {release['sequence']} "):
            raise CorruptBundle(str(replica["problem"]))


def _reason(app: Mapping[str, Any]) -> str:
    return _said(app) or "Serve gives no reason"


def _said(app: Mapping[str, Any]) -> str:
    parts = [app["message"], *(deployment["message"] for deployment in app["deployments"].values())]
    return " ".join(part for part in parts if part)[-2000:]


def _until(done: Callable[[], bool], timeout_s: float, message: str, why: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            reason = why() or "Look at the Serve tab of the Ray dashboard."
            raise Unavailable(f"{message} after {timeout_s:g} s. {reason}")
        time.sleep(_POLL_S)


def _ray_headers() -> dict[str, str]:
    # The same call that Ray's SDK and CLI make; there is no public one.
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    return dict(get_auth_headers_if_auth_enabled({}))
