"""Evidently for real: the page for people, and the oracle of our detectors. Slow to import, hence not a unit test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raysaas.drift.detectors import jensen_shannon, psi
from raysaas.drift.report import render, shipped_rows, write_report
from raysaas.errors import Unavailable
from raysaas.records import DriftReport, Family, Severity
from raysaas.settings import Settings, Storage
from raysaas.stores.journal import Journal
from raysaas.stores.ledger import Ledger
from raysaas.stores.logs import SCHEMAS
from raysaas.stores.registry import Registry
from raysaas.stores.tables import Tables

_ORACLE = """
import json, sys
import pandas
from evidently.legacy.calculations.stattests.jensenshannon import jensenshannon_stat_test
from evidently.legacy.calculations.stattests.psi import psi_stat_test
from evidently.legacy.calculations.stattests.registry import ColumnType
tests = {"psi": psi_stat_test, "jensen_shannon": jensenshannon_stat_test}
print(json.dumps([
    {name: float(test.func(pandas.Series(old), pandas.Series(new), ColumnType.Categorical, 0.1)[0])
     for name, test in tests.items()}
    for old, new in json.load(sys.stdin)
]))
"""


def test_psi_and_jensen_shannon_are_evidentlys_on_the_same_bins() -> None:
    rng = np.random.default_rng(0)
    pairs = [[rng.choice(list("abcdef"), 5000, p=rng.dirichlet(np.ones(6) * 10)) for _ in range(2)] for _ in range(5)]
    done = subprocess.run(
        [sys.executable, "-c", _ORACLE], input=json.dumps([[side.tolist() for side in pair] for pair in pairs]),
        capture_output=True, text=True, check=True, timeout=120, env={**os.environ, "DO_NOT_TRACK": "1"},
    )  # fmt: skip
    for (old, new), theirs in zip(pairs, json.loads(done.stdout), strict=True):
        assert psi(old, new) == pytest.approx(theirs["psi"], rel=0.02, abs=1e-4)
        # Evidently takes natural logarithms.
        assert jensen_shannon(old, new) == pytest.approx(theirs["jensen_shannon"] / np.sqrt(np.log(2)), rel=1e-6)


def test_page_names_the_drifted_columns_and_loads_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    old = pa.table({"age": rng.normal(40, 10, 800), "plan": rng.choice(["basic", "pro"], 800), "flag": [True] * 800})
    new = pa.table({"age": rng.normal(60, 10, 300), "plan": rng.choice(["basic", "team"], 300), "flag": [None] * 300})
    page = write_report(old, new, tmp_path / "reports" / "x.html", "shop <v1>", psi=0.3).read_text()
    assert "<title>shop &lt;v1&gt;</title>" in page
    assert all(word in page for word in ("age", "plan", "team", "PSI"))
    assert ">shop &lt;v1&gt;</h1>" in page
    assert "Dataset Drift is detected" in page
    calm = write_report(old, old, tmp_path / "calm.html", "shop", psi=0.3).read_text()
    assert "Dataset Drift is NOT detected" in calm
    loads = ('src="http', '<link rel="stylesheet" href="http', "@import url(http")
    assert not any(load in page for load in loads)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["x.html"]


def test_failure_is_said_with_its_last_words(tmp_path: Path) -> None:
    (tmp_path / "x.html").mkdir()
    with pytest.raises(Unavailable, match="Error"):
        write_report(pa.table({"n": [1.0, 2.0]}), pa.table({"n": [1.0, 3.0]}), tmp_path / "x.html", "title", psi=0.3)


def test_windows_that_left_the_journal_are_read_from_the_log(tmp_path: Path) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {
            "id": str(i),
            "use_case": "shop",
            "inputs": json.dumps({"n": i}),
            "version": 1 + i % 2,
            "score": i / 10,
            "time": start + timedelta(seconds=i),
        }
        for i in range(10)
    ]
    tables = Tables(Storage(home=str(tmp_path)))
    tables.append("log.decisions", pa.Table.from_pylist(rows, SCHEMAS["decisions"]))
    report = DriftReport(
        use_case="shop", version=1, window=1, num_decisions=3, started_at=start + timedelta(seconds=2),
        ended_at=start + timedelta(seconds=6), decisions=("2", "6"), features={"n": 1.0}, prediction=0.0,
        severity=Severity.drift, cause=("n",),
    )  # fmt: skip
    assert sorted(shipped_rows(tables, report)["n"].to_pylist()) == [2, 4, 6]


def test_render_takes_the_training_rows_of_that_version(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    settings = make_settings("use_case=telco_churn")
    name, storage, start = settings.use_case.name, settings.storage, datetime(2026, 1, 1, tzinfo=UTC)
    ledger, registry, tables = Ledger(storage.ledger_url or ""), Registry(storage), Tables(storage)
    assert render(settings, ledger) is None

    ids = [str(i) for i in range(50)]
    snapshot = tables.append(f"training.{name}", pa.table({"plan": ["old"] * 50, "row_id": ids}))
    tables.overwrite(f"training.{name}", pa.table({"plan": ["newer"] * 50, "row_id": ids}))
    (tmp_path / "bundle").mkdir()
    version = registry.register(
        name, tmp_path / "bundle", digest="0" * 64, family=Family.trees, metrics={}, baseline={},
        tags={"training_snapshot": str(snapshot)},
    )  # fmt: skip
    report = DriftReport(
        use_case=name, version=version.version, window=1, num_decisions=30, started_at=start, ended_at=start,
        decisions=("0", "29"), features={"plan": 2.0}, prediction=0.0, severity=Severity.drift, cause=("plan",),
    )  # fmt: skip
    Journal(storage.journal or "", name, "decisions").append(
        [{"id": str(i), "version": version.version, "inputs": {"plan": "team"}, "score": 0.5, "time": start.isoformat()}
         for i in range(30)]
    )  # fmt: skip
    ledger.add_drift(report)
    later = start + timedelta(hours=1)
    ledger.add_drift(replace(report, window=2, severity=Severity.silent, started_at=later, ended_at=later))
    path = Path(render(settings, ledger) or "")
    assert path.name == f"v{version.version}-w1.html", "the newest drifted window goes before a newer silent one"
    page = path.read_text()
    assert "team" in page
    assert "old" in page
    assert "newer" not in page
    assert "row_id" not in page
    written = path.stat().st_mtime_ns
    assert render(settings, ledger) == str(path)
    assert path.stat().st_mtime_ns == written
