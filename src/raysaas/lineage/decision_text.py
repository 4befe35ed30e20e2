"""A decision that was explained, as a page of text: the answer first, then what went in, what became of it, and why."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from raysaas.lineage.provenance import as_time

_FILES_SHOWN = 8


def page(told: Mapping[str, Any]) -> str:
    """What ``decision.explain`` found, for people."""
    parts = (_head, _inputs, _outcomes, _shadows, _version, _releases)
    return "\n\n".join("\n".join(part(told)) for part in parts) + "\n"


def _head(told: Mapping[str, Any]) -> Iterator[str]:
    decision = told["decision"]
    yield f"Decision {decision['id']} of {decision['use_case']}"
    whom = [f"{name} {decision[name]}" for name in ("tenant", "entity", "key") if decision.get(name)]
    yield f"  for {', '.join(whom)}, at {_time(decision['time'])}"
    answer = _answer(decision["label"], decision["score"])
    yield f"  answered {answer} by version {decision['version']} ({decision['arm']})"
    yield f"  {_again(told)}"


def _again(told: Mapping[str, Any]) -> str:
    if told["score_again"] is None:
        return f"cannot be computed again: {told['not_again']}"
    if told["same_score"]:
        return "computed again from the record: the same, bit for bit"
    again, rounding = _answer(told["label_again"], told["score_again"]), told.get("rounding")
    if rounding and rounding["explains"]:
        how_far = f"{rounding['apart']:.1e} apart, rounding may be {rounding['allowed']:.1e}"
        return f"answered by {told['decision']['backend']}; computed again on the CPU: {again}, {how_far}"
    return f"COMPUTED AGAIN IT DIFFERS: {again}"


def _inputs(told: Mapping[str, Any]) -> Iterator[str]:
    decision, inputs = told["decision"], told["decision"]["inputs"]
    given = decision.get("given") or {}
    yield f"What went in ({len(inputs)} features)"
    width = max((len(name) for name in inputs), default=0)
    online = decision.get("features_at") is not None
    for name, value in inputs.items():
        source = ("  given by the request" if name in given else "") if online else ""
        yield f"  {name:<{width}}  {'missing' if value is None else value}{source}"
    if online:
        yield "  read online, as of:"
        for view, moment in decision["features_at"].items():
            yield f"    {view}: {_time(datetime.fromtimestamp(moment / 1e6, UTC)) if moment else 'no row'}"


def _outcomes(told: Mapping[str, Any]) -> Iterator[str]:
    yield "What became of it"
    if not told["outcomes"]:
        yield "  nothing was reported yet"
    for report in told["outcomes"]:
        how = f"by key {report['key']}" if report["key"] else "by its id"
        last = "  <- this one counts" if report is told["outcomes"][-1] and len(told["outcomes"]) > 1 else ""
        times = f"observed {_time(report['observed_at'])}, known {_time(report['known_at'])}"
        yield f"  {report['label']}, {times}, reported {how}{last}"


def _shadows(told: Mapping[str, Any]) -> Iterator[str]:
    yield "What a shadow would have answered"
    for one in told["shadows"]:
        yield f"  version {one['version']}: {_answer(one['label'], one['score'])}"
    if not told["shadows"]:
        yield "  no version was in the shadow"


def _version(told: Mapping[str, Any]) -> Iterator[str]:
    version, training = told["version"], told["training_set"]
    yield f"Version {version['version']} ({version['family']}, {_time(version['at']) if version['at'] else 'no date'})"
    yield f"  bundle   {version['digest']}"
    yield f"  verdict  {version['reason'] or 'never judged'}"
    if training:
        yield f"  learnt   {training['num_rows']} rows of {training['table']}@{training['snapshot_id']},"
        yield f"           as of {_time(training['as_of'])}, known by {_time(training['known_at'])}"
        yield f"           content {training['content_hash']}"
        for table, snapshot in training["snapshots"].items():
            yield f"  made of  {table}@{snapshot}"
    for file in told["files"][:_FILES_SHOWN]:
        yield f"  file     {file}"
    if len(told["files"]) > _FILES_SHOWN:
        yield f"           and {len(told['files']) - _FILES_SHOWN} more files: --json has them"


def _releases(told: Mapping[str, Any]) -> Iterator[str]:
    force = told["release"]
    yield "Why this version answered"
    if force is None:
        yield "  no release before the decision names it"
    for release in told["releases"]:
        mark = "  <- in force then" if force and release["sequence"] == force["sequence"] else ""
        roles = ", ".join(release["roles"])
        yield f"  release {release['sequence']}, {_time(release['at'])}: {roles}; by {release['actor']}{mark}"
        yield f"    {release['reason']}"


def _answer(label: str | None, score: float) -> str:
    return f"{score!r}" if label is None else f"{label} (score {score!r})"


def _time(value: Any) -> str:
    moment = as_time(value)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d} UTC"
