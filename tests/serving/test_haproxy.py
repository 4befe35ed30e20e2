"""What is between Serve and HAProxy: the real binary takes the narrowed configuration, once and again."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.cluster.raw_http import BUILT_IN, problem_of, said, statuses

from raysaas.serving.environment import serve_environment

# All that HAProxy 2.8 has words for, less 200, which is no refusal. Anything else it could not say.
OWN = [400, 401, 403, 404, 405, 407, 408, 410, 413, 422, 425, 429, 500, 501, 502, 503, 504]

SERVES_OWN = """global
    stats socket {folder}/a mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 50ms
    retries 0
    timeout client 60s
    timeout server 60s
    option abortonclose
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
frontend prometheus
    bind :{ports[1]}
    mode http
frontend http_frontend
    bind *:{ports[0]}
    acl routes path -i /-/routes
    http-request return status 200 content-type application/json string "{{\"/acme\":\"acme\"}}" if routes
{says}
    use_backend nobody if {{ path_beg /door_test/ }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found. Ping http://.../-/routes"
backend nobody
    server one 127.0.0.1:1
listen stats
  bind *:{ports[2]}
  stats enable
"""


@pytest.fixture(scope="module")
def ports() -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory: pytest.TempPathFactory, ports: list[int]) -> Path:
    return _narrow(tmp_path_factory.mktemp("haproxy") / "haproxy.cfg", ports, SERVES_OWN)


def _narrow(config: Path, ports: list[int], serves_own: str) -> Path:
    rule = "    http-request return status {0} default-errorfiles if {{ path /say/{0} }}"
    says = "\n".join(rule.format(status) for status in OWN)
    config.write_text(serves_own.format(folder=config.parent, ports=ports, says=says))
    flags = serve_environment(bind="127.0.0.1")
    for _ in range(2):  # Serve may start it again with the file as it is
        command = [flags["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)]
        done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return config


@pytest.fixture(scope="module")
def haproxy(narrowed: Path, ports: list[int]) -> Iterator[int]:
    """The port of a real one, which waits 0.3 s for requests instead of 15."""
    hasty = narrowed.with_name("hasty.cfg")
    hasty.write_text(narrowed.read_text().replace("http-request 15s", "http-request 300ms"))
    with _running(hasty, ports[0]) as port:
        yield port


@contextmanager
def _running(config: Path, port: int) -> Iterator[int]:
    flags = serve_environment(bind="127.0.0.1")
    process = subprocess.Popen(
        [flags["RAY_SERVE_HAPROXY_BINARY_PATH"], "-db", "-f", str(config)], env=os.environ | flags
    )
    try:
        deadline = time.monotonic() + 10
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None
            assert time.monotonic() < deadline
        yield port
    finally:
        process.terminate()
        process.wait(5)


def test_pages_are_bound_and_requests_must_arrive(narrowed: Path, ports: list[int]) -> None:
    text = narrowed.read_text()
    assert re.findall(r"bind (\S+)", text) == [f"127.0.0.1:{ports[1]}", f"*:{ports[0]}", f"127.0.0.1:{ports[2]}"]
    assert re.findall(r"timeout http-request (\S+)|option http-buffer-(\w+)", text) == [("", "request"), ("15s", "")]
    assert "mode 600 level admin" in text


@pytest.mark.parametrize("status", OWN)
def test_whatever_haproxy_says_itself_is_a_problem_document(haproxy: int, status: int) -> None:
    answer = said(haproxy, f"GET /say/{status} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    problem = problem_of(answer)
    assert (statuses(answer), problem["status"]) == ([status], status)
    assert problem["title"] == HTTPStatus(status).phrase
    assert ("try again" in problem["detail"]) == (status in (425, 429, 502, 503, 504))


def _post(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "Connection: close", "", ""]).encode()


@pytest.mark.parametrize("path", ["/hello-stranger", "/-/routes"])
def test_a_path_of_nobody_is_not_repeated_and_use_cases_are_not_listed(haproxy: int, path: str) -> None:
    answer = said(haproxy, _post(path, "Content-Length: 0"))
    assert (problem_of(answer)["status"], b"stranger" in answer) == (404, False)


def test_one_that_knows_no_use_case_yet_says_try_again(tmp_path: Path) -> None:
    with ExitStack() as held:
        free = [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(3)]
    starting = re.sub(r"    use_backend .*\n", "", SERVES_OWN)
    with _running(_narrow(tmp_path / "haproxy.cfg", free, starting), free[0]) as port:
        problem = problem_of(said(port, _post("/acme/predict", "Content-Length: 0")))
    assert (problem["status"], problem["detail"]) == (503, "No replica answered: try again.")


def test_a_late_body_is_refused_in_a_document(haproxy: int) -> None:
    assert problem_of(said(haproxy, _post("/door_test/predict", "Content-Length: 9")))["status"] == 408


@pytest.mark.parametrize("status", [400, 408])
def test_what_it_cannot_read_gets_its_built_in_page(haproxy: int, status: int) -> None:
    """HAProxy 2.8 has no setting for this (its issue 3032); should a newer one have, it says the document."""
    raw = b"GET /stranger HTTP/1.1\r\n" + (b"X-A : b\r\n\r\n" if status == 400 else b"")
    answer = said(haproxy, raw)
    assert statuses(answer) == [status]
    assert answer == BUILT_IN.get(status) or problem_of(answer)


def test_serve_still_writes_what_is_narrowed() -> None:
    found = find_spec("ray")
    assert found
    template = (Path(str(found.origin)).parent / "serve" / "_private" / "haproxy_templates.py").read_text()
    for line in (
        " mode 666 ", "\n    option abortonclose\n", "frontend prometheus\n    bind :", "listen stats\n  bind *:",
        "\n    errorfile 502 ", "\n    errorfile 503 ", "\n    errorfile 504 ", "\ndefaults\n",
        "\n    http-request return status 404 content-type text/plain lf-string ", 'routes_message }}" if routes\n',
    ):  # fmt: skip
        assert template.count(line) == 1, line
    assert "\n    use_backend {{ backend.name or 'unknown' }} if is_" in template
    assert "http-buffer-request" not in template
