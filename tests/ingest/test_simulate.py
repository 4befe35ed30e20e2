"""The simulator: the same rows from the same seed, a contract kept, still before the change, turned round after it."""

from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from raysaas.ingest.contract import check
from raysaas.ingest.population import SHARD
from raysaas.ingest.simulate import SOURCES, shard_tables, simulate
from raysaas.use_case import Simulation, UseCase

CONF = Path(__file__).resolve().parents[2] / "conf" / "use_case" / "saas_churn.yaml"
CUT_SQL = """
    WITH a AS (SELECT account_id FROM accounts GROUP BY ALL HAVING min(recorded_at) <= $cut),
         u AS (SELECT account_id, count(*) AS days, mean(depth) AS depth FROM usage
               WHERE used_at <= $cut AND used_at > $cut - INTERVAL 28 DAY GROUP BY ALL),
         c AS (SELECT account_id, min(churned_at) AS left_at FROM churns GROUP BY ALL)
    SELECT coalesce(days, 0) AS days, coalesce(depth, 0) AS depth,
           coalesce(left_at <= $cut + INTERVAL 30 DAY, false) AS churned
    FROM a LEFT JOIN u USING (account_id) LEFT JOIN c USING (account_id) WHERE left_at IS NULL OR left_at > $cut
"""


@pytest.fixture(scope="module")
def tables() -> dict[str, pa.Table]:
    shards = [shard_tables(Simulation(), 0, shard) for shard in range(2)]
    return {source: pa.concat_tables([shard[source] for shard in shards]) for source in SOURCES}


def at(tables: dict[str, pa.Table], cut: datetime) -> dict[str, np.ndarray]:
    with duckdb.connect() as db:
        for name, table in tables.items():
            db.register(name, table)
        return db.execute(CUT_SQL, {"cut": cut}).fetchnumpy()


def month(number: int) -> datetime:
    return datetime(2025, number, 1, tzinfo=UTC)


def psi(expected: np.ndarray, actual: np.ndarray) -> float:
    edges = np.unique(np.quantile(expected, np.linspace(0.1, 0.9, 9)))
    bins = [np.bincount(np.searchsorted(edges, x), minlength=len(edges) + 1) for x in (expected, actual)]
    p, q = (counts / counts.sum() + 1e-4 for counts in bins)
    return float(np.sum((p - q) * np.log(p / q)))


def test_a_shard_depends_on_its_seed_and_number_only() -> None:
    small, large = Simulation(accounts=SHARD, days=60), Simulation(accounts=3 * SHARD, days=60)
    assert shard_tables(small, 7, 0) == shard_tables(large, 7, 0)
    assert shard_tables(small, 7, 0) != shard_tables(small, 8, 0)
    assert shard_tables(large, 7, 0)["usage"] != shard_tables(large, 7, 1)["usage"]


def test_months_that_share_a_border_are_written_once(tmp_path: Path) -> None:
    spec, border = Simulation(accounts=60, days=90), date(2025, 2, 10)
    whole = simulate(spec, tmp_path / "whole", 1)
    early = simulate(spec, tmp_path / "parts", 1, upto=border)
    late = simulate(spec, tmp_path / "parts", 1, since=border)
    assert {source: early[source] + late[source] for source in SOURCES} == whole
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert "usage-202502.parquet" in names
    for name in names:
        assert pq.read_table(tmp_path / "whole" / name) == pq.read_table(tmp_path / "parts" / name)


def test_every_row_keeps_the_contract(tables: dict[str, pa.Table]) -> None:
    use_case = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(UseCase), OmegaConf.load(CONF)))
    assert isinstance(use_case, UseCase)
    for name, source in use_case.sources.items():
        checked = check(tables[name], source, now=datetime(2026, 6, 1, tzinfo=UTC), file=f"{name}.parquet")
        assert checked.refused.num_rows == 0
        assert checked.accepted.num_rows == tables[name].num_rows > 0


def test_labels_arrive_late_and_nobody_acts_after_leaving(tables: dict[str, pa.Table]) -> None:
    with duckdb.connect() as db:
        for name, table in tables.items():
            db.register(name, table)
        assert db.sql("SELECT DISTINCT known_at - churned_at = INTERVAL 7 DAY FROM churns").fetchall() == [(True,)]
        late = db.sql("SELECT count(*) FROM usage JOIN churns USING (account_id) WHERE used_at >= churned_at")
        assert late.fetchall() == [(0,)]
        strangers = db.sql("SELECT count(*) FROM churns ANTI JOIN accounts USING (account_id)")
        assert strangers.fetchall() == [(0,)]


def test_before_the_change_nothing_moves_and_the_idle_leave(tables: dict[str, pa.Table]) -> None:
    reference = at(tables, month(3))
    for number in range(2, 9):
        seen = at(tables, month(number))
        assert 0.05 < seen["churned"].mean() < 0.12
        assert psi(reference["days"], seen["days"]) < 0.08
        assert psi(reference["depth"], seen["depth"]) < 0.08
        assert roc_auc_score(seen["churned"], -seen["days"]) > 0.7


def test_after_the_change_depth_doubles_and_the_heavy_users_leave(tables: dict[str, pa.Table]) -> None:
    before, after = at(tables, month(3)), at(tables, month(11))
    assert np.median(after["depth"]) > 1.8 * np.median(before["depth"])
    assert 0.05 < after["churned"].mean() < 0.13
    assert roc_auc_score(after["churned"], after["days"]) > roc_auc_score(before["churned"], before["days"]) + 0.2
    plans = tables["accounts"].filter(pa.compute.greater(tables["accounts"]["recorded_at"], month(10)))["plan"]
    assert set(plans.to_pylist()) == {"starter", "team", "enterprise"}
