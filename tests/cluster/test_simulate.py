"""The simulator on Ray Data writes the rows that one process writes."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds

from raysaas.ingest import simulate as simulator
from raysaas.use_case import Simulation


def test_ray_writes_the_rows_of_one_process(ray_cluster: Any, tmp_path: Path) -> None:
    spec = Simulation(accounts=simulator.SHARD * simulator.SHARDS_PER_PART + 40, days=20)
    alone = simulator.simulate(spec, tmp_path / "alone", 3)
    spread = simulator.simulate_distributed(spec, tmp_path / "spread", 3)
    assert spread == alone
    assert len(list((tmp_path / "spread").glob("accounts-202501-*.parquet"))) == 2
    order = [("used_at", "ascending"), ("account_id", "ascending")]
    rows = [
        ds.dataset(sorted((tmp_path / where).glob("usage-*.parquet"))).to_table().sort_by(order)
        for where in ("alone", "spread")
    ]
    assert rows[0] == rows[1]


def test_the_job_writes_where_the_sources_look(
    raysaas: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = raysaas("run", "simulate", "use_case.simulate.accounts=300", f"data_dir={tmp_path / 'data'}", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows["usage"] > 10_000
    read = raysaas("run", "ingest", f"data_dir={tmp_path / 'data'}", "--json")
    assert json.loads(read.stdout)["rows"]["accepted"] == sum(rows.values()), read.stderr
    refused = raysaas("run", "simulate", "use_case=telco_churn", "data_dir=.")
    assert (refused.returncode, "has no `simulate`" in refused.stderr) == (65, True)
