"""The one screen at the end of a demo."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_RULE = "-" * 100


def screen(facts: Mapping[str, Any]) -> str:
    """Facts of a demo as at most about 40 lines of plain text."""
    return "\n" + "\n".join(_lines(facts)) + "\n"


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    name, rows = facts["use_case"], facts["rows"]
    yield f"raysaas demo · {name} · {facts['task']} · {facts['seconds']} s · peak memory {facts['peak_memory_gb']} GB"
    yield _RULE
    yield f"rows        {rows['read']:,} read, {rows['accepted']:,} accepted, {rows['quarantined']:,} quarantined"
    yield f"            {facts['training_rows']:,} training rows, each with the features known at its time"
    yield from _versions(facts)
    yield from _watched(facts)
    yield _RULE
    yield f"endpoint    {facts['url']}/docs"
    yield f"dashboard   {facts['dashboard_url']} (it asks for a token: the content of ~/.ray/auth_token)"
    yield f"report      {facts['drift']['html']}"
    yield f"API key     {facts['api_key']}"
    yield _RULE
    yield "try next (while the service is up, in another terminal):"
    command, home = _relative(str(Path(sys.executable).parent / "raysaas")), f"home={_relative(facts['home'])}"
    yield f"  {command} status {home}"
    yield f"  {command} why {facts['traffic']['decision_id']} {home}"
    yield f"  {command} lineage {facts['traffic']['decision_id']} use_case={name} {home}"
    yield f"  {command} rollback {name} --reason 'see it go back' {home}"


def _watched(facts: Mapping[str, Any]) -> Iterator[str]:
    traffic, drift, retrain = facts["traffic"], facts["drift"], facts["retrain"]
    latency = "one row: p50 {p50_ms} ms, p99 {p99_ms} ms".format(**facts["latency"])
    yield f"traffic     {traffic['decisions']:,} decisions, {traffic['failed']} failed; {latency}"
    silent = "silent" if drift["silent_before"] else "not silent"
    yield f"before      drift monitor {silent}: {', '.join(drift['calm']) or 'no full window'}"
    causes = ", ".join(f"{feature} (PSI {psi:.2f})" for feature, psi in list(drift["psi"].items())[:3])
    yield f"change      {drift['severity']}: {causes or ', '.join(drift['cause'])}"
    yield f"retrain     {retrain['order']['result'] if retrain['order'] else 'not ordered'}"
    yield f"            {retrain['failed_requests']} failed requests while it happened"


def _relative(path: str) -> str:
    """As short as it can be typed from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _versions(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"models      {'version':<22}" + "".join(f"{key:>20}" for key in _shown(facts["baseline"])) + "   gate"
    yield f"            {'baseline (linear)':<22}" + _numbers(facts["baseline"])
    for version in facts["versions"]:
        label = f"v{version['version']} {version['family']}"
        verdict = "released" if version["released"] else "kept back"
        yield f"            {label:<22}" + _numbers(version["metrics"]) + f"   {verdict}"


def _shown(metrics: Mapping[str, float]) -> list[str]:
    return [key for key in ("auc", "log_loss", "accuracy", "macro_f1", "rmse", "mae", "r2") if key in metrics][:3]


def _numbers(metrics: Mapping[str, float]) -> str:
    return "".join(f"{metrics[key]:>20.4f}" for key in _shown(metrics))
