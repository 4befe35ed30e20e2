"""``raysaas lineage``: from any record, all that it was made from and all that it led to."""

import difflib
import re
from collections.abc import Iterator
from typing import Any

from raysaas.errors import ConfigError, NotFound
from raysaas.lineage.graph import Graph, Node
from raysaas.lineage.openlineage import of_graph
from raysaas.lineage.provenance import Provenance, find_record
from raysaas.settings import Settings
from raysaas.stores.ledger import Ledger

_FORMS = "a decision id, v3, 'release 4', SOURCE@SNAPSHOT, training@SNAPSHOT, a snapshot id or a file"
_FILES_SHOWN, _DEPTH = 5, 40


def walk(settings: Settings, id: str, *, openlineage: bool = False) -> dict[str, Any]:  # noqa: A002 - as the command's
    """The part of the use case's graph that ``id`` was made from or led to.

    ``id``: a decision's id, ``v3`` or ``USE_CASE:v3``, ``release 4`` or ``USE_CASE#4``, ``SOURCE@SNAPSHOT``,
    ``training@SNAPSHOT``, a snapshot id, a file's path or digest; ids may be cut where the rest is clear. Returns
    ``id``, ``kind``, ``nodes``, ``edges`` (``from``, ``to``), ``made_from`` and ``led_to`` (ids, nearest first) and
    ``text``, or with ``openlineage`` only ``events``. Raises NotFound, or ConfigError when it may be any of several.
    """
    found, start = find(settings, id)
    graph = found.graph
    up, down = graph.reach(start, graph.inputs), graph.reach(start, graph.outputs)
    names = [start, *up, *down]
    if openlineage:
        return {"events": of_graph(found.tables, found.use_case, graph, names)}
    chosen = set(names)
    return {
        "id": start,
        "kind": graph.nodes[start].kind,
        "nodes": [{"id": n.id, "kind": n.kind, "at": n.at, **n.facts} for n in (graph.nodes[name] for name in names)],
        "edges": [{"from": a, "to": b} for b in names for a in graph.inputs.get(b, []) if a in chosen],
        "made_from": up,
        "led_to": down,
        "text": "\n".join(_text(graph, start)),
    }


def find(settings: Settings, text: str) -> tuple[Provenance, str]:
    """The graph that has the record meant by ``text``, and the record's id in it; a decision may be of any use case."""
    decision = None
    if re.fullmatch(r"[0-9a-f]{32}", text):
        everyone = Ledger(settings.storage.ledger_url or "").released()
        decision = find_record(settings.storage, {settings.use_case.name, *everyone}, "decisions", "id", text)
    use_case = decision["use_case"] if decision else settings.use_case.name
    found = Provenance(settings.storage, use_case)
    found.add_decisions()
    if decision:
        return found, found.add_decision(decision)
    return found, _named(found.graph, use_case, text.strip())


def _named(graph: Graph, use_case: str, text: str) -> str:
    wanted = _full(text, use_case)
    if wanted in graph.nodes:
        return wanted
    meant = sorted({name for name, node in graph.nodes.items() if _is_meant(wanted, node)})
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise ConfigError(f"{text!r} may be any of {len(meant)} records: {', '.join(meant[:4])}; give more of it.")
    close = difflib.get_close_matches(wanted, [name for name in graph.nodes if not name.startswith("file:")], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise NotFound(f"There is no record {text!r} of {use_case}: expected {_FORMS}.{hint}")


def _full(text: str, use_case: str) -> str:
    """An id as the graph has it, from the short forms that people write."""
    if match := re.fullmatch(r"v(\d+)", text):
        return f"{use_case}:v{match[1]}"
    if match := re.fullmatch(r"(?:release\s*|#)(\d+)", text):
        return f"{use_case}#{match[1]}"
    if match := re.fullmatch(r"training@(\d+)", text):
        return f"training.{use_case}@{match[1]}"
    if match := re.fullmatch(r"(\w+)@(\d+)", text):
        return f"raw.{use_case}__{match[1]}@{match[2]}"
    return text


def _is_meant(text: str, node: Node) -> bool:
    if node.kind == "file":
        uri = str(node.facts["uri"] or "")
        digest = len(text) >= 6 and node.facts["sha256"].startswith(text.removeprefix("file:"))
        return digest or uri == text or uri.endswith(f"/{text.lstrip('./')}")
    if node.kind in ("snapshot", "training"):
        return node.id.startswith(text) if "@" in text else str(node.facts["snapshot_id"]).startswith(text)
    return False


def _text(graph: Graph, start: str) -> Iterator[str]:
    yield _line(graph.nodes[start])
    for title, edges in (("made from", graph.inputs), ("led to", graph.outputs)):
        branches = list(_branches(graph, start, edges, {start}, 1))
        yield title + (":" if branches else ": nothing")
        yield from branches


def _branches(graph: Graph, name: str, edges: dict[str, list[str]], seen: set[str], depth: int) -> Iterator[str]:
    """The tree below a node, one line per node; what was shown before is not shown again."""
    files = 0
    for child in _children(graph, name, edges):
        node, indent = graph.nodes[child], "  " * depth
        files += node.kind == "file"
        if child in seen or (node.kind == "file" and files > _FILES_SHOWN):
            if child in seen and node.kind != "file":
                yield f"{indent}{child} (as above)"
            continue
        seen.add(child)
        yield indent + _line(node)
        if depth < _DEPTH:
            yield from _branches(graph, child, edges, seen, depth + 1)
    if files > _FILES_SHOWN:
        yield "  " * depth + f"and {files - _FILES_SHOWN} more files"


def _children(graph: Graph, name: str, edges: dict[str, list[str]]) -> list[str]:
    """The next nodes; those of one table's versions, which build on each other, as if they were one node."""
    table = graph.nodes[name].facts.get("table")
    found: list[str] = []
    ahead = [name]
    for this in ahead:
        for other in edges.get(this, []):
            node = graph.nodes.get(other)
            if node and node.kind == "snapshot" and node.facts["table"] == table:
                ahead.append(other)
            elif node and other not in found:
                found.append(other)
    return found


def _line(node: Node) -> str:
    facts, at = node.facts, f"{node.at:%Y-%m-%d %H:%M:%S} UTC" if node.at else ""
    told = {
        "file": lambda: f"file {facts['uri'] or '(path not recorded)'} (sha256 {facts['sha256'][:12]})",
        "snapshot": lambda: f"snapshot {node.id} ({_size(facts)}{at})",
        "training": lambda: f"training set {node.id} ({facts['num_rows']} rows, as of {facts['as_of'][:19]} UTC)",
        "model": lambda: f"model {node.id} ({facts['family']}, {at}; {facts['reason'] or 'not judged'})",
        "release": lambda: f"release {node.id} ({at}, by {facts['actor']}: {facts['reason']})",
        "decisions": lambda: f"{facts['count']} decisions of v{facts['version']} (the last {at})",
        "decision": lambda: f"decision {node.id} ({at}, v{facts['version']}, score {facts['score']:.4g})",
        "outcome": lambda: f"outcome {facts['label']!r} ({at})",
    }
    return told[node.kind]()


def _size(facts: dict[str, Any]) -> str:
    return "gone: its rows were forgotten or it expired" if facts.get("gone") else f"{facts['rows']} rows, "
