"""The drift report for people: Evidently's HTML page of training rows against the decisions of a window.

Evidently takes seconds and pandas to import, so the page is written by a short process of its own::

    python -m raysaas.drift.report --reference ref.parquet --current now.parquet --out page.html --title "..."
"""

import argparse
import html
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysaas.errors import InputError, Unavailable
from raysaas.records import DriftReport, Severity
from raysaas.settings import Settings
from raysaas.stores.journal import tail
from raysaas.stores.ledger import Ledger

if TYPE_CHECKING:
    from raysaas.stores.tables import Tables

MAX_ROWS = 5_000
TIMEOUT_S = 180
QUIET = {"DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0", "MPLBACKEND": "Agg"}


def report_path(home: str | Path, use_case: str, version: int, window: int) -> Path:
    """Where the page of a window lies: ``<home>/reports/<use_case>/v<version>-w<window>.html``."""
    return Path(home) / "reports" / use_case / f"v{version}-w{window}.html"


def render(settings: Settings, ledger: Ledger) -> str | None:
    """Write the page of the newest drifted window, else of the newest, unless it is there; its path, or None.

    The reference is the training set of the version that answered in that window.
    """
    from raysaas.stores.registry import Registry
    from raysaas.stores.tables import Tables

    name, storage = settings.use_case.name, settings.storage
    reports = [report for report in ledger.drift(name) if report.features]
    report = next((found for found in reports if found.severity is Severity.drift), next(iter(reports), None))
    if report is None:
        return None
    out = report_path(storage.home, name, report.version, report.window)
    if not out.exists():
        tables = Tables(storage)
        current = window_rows(storage.journal or "", report)
        current = current if current.num_rows else shipped_rows(tables, report)
        columns = [column for column in tables.schema(f"training.{name}").names if column in report.features]
        snapshot = Registry(storage).version(name, report.version).training_snapshot
        reference = tables.read(f"training.{name}", snapshot=snapshot, columns=columns)
        cause = f"{report.severity}: {', '.join(report.cause)}" if report.cause else str(report.severity)
        title = f"{name}, version {report.version}, window {report.window} ({cause})"
        write_report(reference, current, out, title, psi=settings.drift.psi_drift)
    return str(out)


def write_report(reference: pa.Table, current: pa.Table, out: Path, title: str, *, psi: float) -> Path:
    """Write the page in a process of its own and return ``out``; it appears at once or not at all.

    As for the monitor, one column whose PSI is over ``psi`` makes drift.

    ``reference`` and ``current`` are rows of the same features; columns that only one of them has are left out, and at
    most ``MAX_ROWS`` evenly spread rows of each are compared.

    Raises
    ------
    InputError : there is no row, or no common column with a value.
    Unavailable : Evidently failed or took over 3 minutes; the message ends with what it said last.
    """
    old, new = _comparable(reference, current)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="drift-report-") as folder:
        paths = {"--reference": f"{folder}/reference.parquet", "--current": f"{folder}/current.parquet"}
        for table, path in zip((old, new), paths.values(), strict=True):
            pq.write_table(table, path)
        options = [word for pair in paths.items() for word in pair]
        options += ["--out", str(out.resolve()), "--title", title, "--psi", str(psi)]
        _run([sys.executable, "-m", __name__, *options])
    return out


def window_rows(journal: str | Path, report: DriftReport) -> pa.Table:
    """Inputs and scores of the decisions of ``report``'s version from its first to its last moment, by the journal.

    Replicas write at the same time, so this can hold a few decisions of the windows next to it. Segments that were
    shipped over a day ago are gone from the journal: then read ``log.decisions``.
    """
    found: list[Mapping[str, Any]] = []
    records, offsets = tail(journal, report.use_case, "decisions", {})
    while records:
        mine = (record for record in records if record["version"] == report.version)
        found += [
            {**record["inputs"], "score": record["score"]} for record in mine
            if report.started_at <= datetime.fromisoformat(record["time"]) <= report.ended_at
        ]  # fmt: skip
        records, offsets = tail(journal, report.use_case, "decisions", offsets)
    return _rows(found)


def shipped_rows(tables: "Tables", report: DriftReport) -> pa.Table:
    """The same rows from Iceberg ``log.decisions``, for windows that the journal no longer holds."""
    span = f"time >= '{report.started_at.isoformat()}' and time <= '{report.ended_at.isoformat()}'"
    where = f"use_case == '{report.use_case}' and version == {report.version} and {span}"
    table = tables.read("log.decisions", columns=["inputs", "score"], where=where)
    return _rows([{**json.loads(row["inputs"]), "score": row["score"]} for row in table.to_pylist()])


def _rows(found: Sequence[Mapping[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in found for name in row))
    return pa.table({name: pa.array([row.get(name) for row in found]) for name in names})


def _comparable(reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    if not (reference.num_rows and current.num_rows):
        raise InputError(f"A drift report needs rows on both sides: got {reference.num_rows} and {current.num_rows}.")
    old, new = _spread(reference), _spread(current)
    names = [name for name in old.column_names if name in new.column_names]
    columns = {name: _alike(old[name], new[name]) for name in names}
    columns = {name: pair for name, pair in columns.items() if all(part.null_count < len(part) for part in pair)}
    if not columns:
        raise InputError("A drift report needs a column with values on both sides: there is none.")
    left, right = (pa.table({name: pair[side] for name, pair in columns.items()}) for side in (0, 1))
    return left, right


def _alike(old: pa.ChunkedArray, new: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    number = all(_is_number(column.type) for column in (old, new))
    target = pa.float64() if number else pa.string()
    return pc.cast(old, target), pc.cast(new, target)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _spread(table: pa.Table) -> pa.Table:
    if table.num_rows <= MAX_ROWS:
        return table
    return table.take(np.linspace(0, table.num_rows - 1, MAX_ROWS).astype(np.int64))


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"The drift report took over {TIMEOUT_S} s and was given up.") from error
    if done.returncode:
        raise Unavailable(f"The drift report failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")


def _write(reference: Path, current: Path, out: Path, title: str, psi: float) -> None:
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    old, new = (pq.read_table(path) for path in (reference, current))
    texts = [field.name for field in old.schema if field.type == pa.string()]
    numbers = [name for name in old.column_names if name not in texts]
    shape = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    sides = [Dataset.from_pandas(table.to_pandas(), data_definition=shape) for table in (new, old)]
    preset = DataDriftPreset(method="psi", threshold=psi, drift_share=0.5 / old.num_columns)
    page = Report([preset], metadata={"title": title}).run(*sides)
    draft = out.with_suffix(f".{os.getpid()}.tmp")
    try:
        page.save_html(str(draft))
        draft.write_text(_titled(draft.read_text(), title))
        draft.rename(out)
    finally:
        draft.unlink(missing_ok=True)


def _titled(page: str, title: str) -> str:
    """``page`` with the title in its head, and in sight: Evidently shows none."""
    text = html.escape(title)
    style = "font: 600 1.25rem sans-serif; text-align: center; margin: 1rem"
    page = page.replace("<head>", f"<head><title>{text}</title>", 1)
    return page.replace("<body>", f'<body><h1 style="{style}">{text}</h1>', 1)


def main() -> None:
    """Write one page from two Parquet files."""
    parser = argparse.ArgumentParser(description="Write Evidently's drift page of two Parquet files.")
    for name in ("reference", "current", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--title", default="Drift report")
    parser.add_argument("--psi", type=float, default=0.3)
    options = parser.parse_args()
    _write(options.reference, options.current, options.out, options.title, options.psi)


if __name__ == "__main__":
    main()
