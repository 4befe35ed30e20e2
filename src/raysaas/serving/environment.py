"""Serve's fast path: environment variables that Ray reads at import, so before ``ray start`` on every node."""

import os
from pathlib import Path


def serve_environment(
    folder: str | Path | None = None, *, stats_port: int = 8404, metrics_port: int = 9101
) -> dict[str, str]:
    """The variables and their values.

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
