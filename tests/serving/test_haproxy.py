"""What is between Serve and HAProxy: the real binary takes the narrowed configuration, once and again."""

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from raysaas.serving.environment import serve_environment

SERVES_OWN = """global
    stats socket {folder}/a mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    option abortonclose
    errorfile 502 {folder}/500.http
    errorfile 503 {folder}/500.http
    errorfile 504 {folder}/500.http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind *:8000
    default_backend nobody
backend nobody
    server one 127.0.0.1:1
listen stats
  bind *:8404
  stats enable
"""


@pytest.fixture
def narrowed(tmp_path: Path) -> str:
    config = tmp_path / "haproxy.cfg"
    config.write_text(SERVES_OWN.format(folder=tmp_path))
    flags = serve_environment(bind="127.0.0.1")
    for _ in range(2):  # Serve may start it again with the file as it is
        command = [flags["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)]
        done = subprocess.run(command, env=os.environ | flags, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return config.read_text()


def test_pages_are_bound_and_requests_must_arrive(narrowed: str) -> None:
    assert re.findall(r"bind (\S+)", narrowed) == ["127.0.0.1:9101", "*:8000", "127.0.0.1:8404"]
    assert re.findall(r"timeout http-request (\S+)|option http-buffer-(\w+)", narrowed) == [
        ("", "request"),
        ("15s", ""),
    ]
    assert "mode 600 level admin" in narrowed
    assert re.findall(r"http-error status (\d+)", narrowed) == ["502", "503", "504"]


def test_serve_still_writes_what_is_narrowed() -> None:
    found = find_spec("ray")
    assert found
    template = (Path(str(found.origin)).parent / "serve" / "_private" / "haproxy_templates.py").read_text()
    for line in (
        " mode 666 ", "\n    option abortonclose\n", "frontend prometheus\n    bind :", "listen stats\n  bind *:",
        "errorfile 502 ", "errorfile 503 ", "errorfile 504 ",
    ):  # fmt: skip
        assert template.count(line) == 1, line
    assert "http-buffer-request" not in template
