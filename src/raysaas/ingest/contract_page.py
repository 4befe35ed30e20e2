"""The contract report as one page of HTML that needs nothing else. Pure."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --line: #dfe3ea; --bg: #fff; --good: #1a7f4b;
        --bad: #c0362c; --mid: #a36500; --bar: #7aa5d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaf0; --soft: #9aa5b5; --line: #333b49; --bg: #14181f;
        --good: #4cc38a; --bad: #ff7b72; --mid: #e3a33c; --bar: #4f7fb5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--bg); color: var(--ink);
       font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0 0 .25rem; } h2 { font-size: 1.05rem; margin: 2.2rem 0 .6rem; }
p { margin: .25rem 0; } .soft { color: var(--soft); }
.verdict { font-weight: 600; } .accepted { color: var(--good); } .refused { color: var(--bad); }
.findings { color: var(--mid); }
.facts { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; margin: 1.25rem 0 0; padding: 0; list-style: none; }
.facts b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; } td.n, th.n { text-align: right; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font: 13px ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: 110px; display: block; } .kept { fill: var(--bar); } .lost { fill: var(--bad); }
"""
_DOES = {
    "refuse_row": "refuses the row", "refuse_batch": "refuses the batch", "warn": "warns", "drop": "drops the copy",
}  # fmt: skip


def page(facts: Mapping[str, Any]) -> str:
    """The page of what ``contract_report`` found."""
    title = f"{facts['source']} of {facts['use_case']}: contract"
    parts = [_head(facts), _batch_rules(facts), _rules(facts), _columns(facts), _trend(facts["trend"])]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{_e(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>{_e(title)}</h1>{''.join(parts)}</body></html>"
    )


def _e(value: object) -> str:
    return html.escape(str(value))


def _head(facts: Mapping[str, Any]) -> str:
    kind = {"accepted": "accepted", "refused": "refused"}.get(facts["verdict"], "findings")
    share = facts["refused"] / max(facts["read"], 1)
    said = f"{share:.2%} refused, the budget is {facts['error_budget']:.0%}"
    said += f"; newest event {_moment(facts['newest_event'])}" if facts["newest_event"] else ""
    counts = ("read", "accepted", "refused", "duplicates", "warned")
    items = "".join(f"<li><b>{facts[key]:,}</b>{key}</li>" for key in counts)
    return (
        f'<p class="verdict {kind}">The newest batch was {_e(facts["verdict"])}.</p>'
        f'<p class="soft">Checked {_moment(facts["at"])}; {_e(said)}.</p><ul class="facts">{items}</ul>'
    )


def _moment(iso: str) -> str:
    return f"{_e(iso[:16].replace('T', ' '))} UTC"


def _batch_rules(facts: Mapping[str, Any]) -> str:
    rows = [(_e(f["rule"]), _e(f["said"]), _DOES.get(f["action"], f["action"])) for f in facts["batch_rules"]]
    return _table("Rules of the batch that it broke", ("rule", "what is so", "what it does"), rows) if rows else ""


def _rules(facts: Mapping[str, Any]) -> str:
    if not facts["rules"]:
        return '<h2>Rules of rows</h2><p class="soft">No row broke a rule.</p>'
    return _table(
        "Rules of rows that were broken",
        ("rule", "column", "#rows", "#share", "what it does", "example", "where"),
        [_rule(one) for one in facts["rules"]],
    )


def _rule(one: Mapping[str, Any]) -> tuple[str, ...]:
    where = f"{PurePosixPath(one['file']).name}, row {one['row_number']:,}"
    value = "" if one["value"] is None else f"<code>{_e(one['value'])}</code>"
    counts = f"{one['count']:,}", f"{one['share']:.2%}"
    return _e(one["rule"]), _e(one["column"]), *counts, _DOES.get(one["action"], one["action"]), value, _e(where)


def _columns(facts: Mapping[str, Any]) -> str:
    rows = [(_e(c["column"]), f"{c['nulls']:,}", f"{c['null_rate']:.2%}") for c in facts["columns"]]
    return _table("Nulls in accepted rows", ("column", "#nulls", "#share"), rows)


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; names that begin with ``#`` are columns of numbers."""
    kinds = [' class="n"' if name.startswith("#") else "" for name in names]
    head = "".join(f"<th{kind}>{name.lstrip('#')}</th>" for name, kind in zip(names, kinds, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, kinds, strict=True))}</tr>" for row in rows
    )
    return f'<h2>{title}</h2><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _trend(batches: Sequence[Mapping[str, Any]]) -> str:
    """Bars of rows read per batch, oldest first; what was refused stands on top."""
    if not batches:
        return ""
    top, width = max(max(b["read"] for b in batches), 1), 640 / max(len(batches), 12)
    bars = "".join(_bar(i * width, width * 0.8, b, 90 / top) for i, b in enumerate(batches))
    span = f"{_moment(batches[0]['at'])} to {_moment(batches[-1]['at'])}"
    return (
        f"<h2>The last {len(batches)} batches</h2>"
        f'<svg viewBox="0 0 640 100" preserveAspectRatio="none" role="img" aria-label="rows per batch">{bars}</svg>'
        f'<p class="soft">{span}; the largest has {top:,} rows; red were refused.</p>'
    )


def _bar(x: float, width: float, batch: Mapping[str, Any], scale: float) -> str:
    kept = batch["read"] - batch["refused"] if batch["committed"] else 0
    high, low = batch["read"] * scale, kept * scale
    said = f"{batch['at'][:16]}: {batch['read']:,} read, {batch['refused']:,} refused"
    said += "" if batch["committed"] else ", not committed"
    return (
        f'<g><title>{_e(said)}</title><rect class="lost" x="{x:.1f}" y="{100 - high:.1f}" width="{width:.1f}" '
        f'height="{high - low:.1f}"/><rect class="kept" x="{x:.1f}" y="{100 - low:.1f}" width="{width:.1f}" '
        f'height="{low:.1f}"/></g>'
    )
