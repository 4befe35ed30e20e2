"""Serve's fast path: environment variables that Ray reads at import, so before ``ray start`` on every node."""

import os
from pathlib import Path


def serve_environment(folder: str | Path | None = None) -> dict[str, str]:
    """The variables and their values.

    ``folder`` takes HAProxy's config and sockets. Ray puts 57 bytes of node id behind it and HAProxy takes at most 97
    for a socket, so it may have 37. Two clusters on one machine need folders of their own, and :func:`own_ports`.
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
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "raysaas.serving.middleware:middlewares",
        # Requests take milliseconds: draining for 30 s and holding ports for 150 s only slows deploys down.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "20",
    }


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
