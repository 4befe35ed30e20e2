"""A use case on the stores of a cluster, S3, PostgreSQL and Redis: its rows come, are served, and are forgotten."""

import json
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import ray
import redis
import sqlalchemy as sa
from tests.cluster.test_erasure import NAME, OWNERS, TENANT, WHO, use_case, write_month
from tests.leftovers import leftovers
from tests.test_erasure_stores import BUCKET, cells, everything, objects, s3

from raysaas.datasets.erasure import forget
from raysaas.settings import Ingest, Settings, Storage
from raysaas.stores.online import OnlineStore
from raysaas.stores.tables import Tables

__all__ = ["s3"]
JOB = textwrap.dedent("""
    import json, os, pickle, sys, ray
    from raysaas import lifecycle
    settings = pickle.loads(open(sys.argv[1], "rb").read())
    sdk = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    ray.init(address=sys.argv[2], log_to_driver=False, runtime_env={"env_vars": sdk})
    rows = lifecycle.ingest(settings)["rows"]
    lifecycle.materialize(settings)
    print(json.dumps(rows))
""")


@pytest.mark.usefixtures("ray_cluster")
def test_rows_on_shared_stores_are_taken_served_and_forgotten(
    s3: object, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE shared_storage")
    url, home = f"{postgres_url.rpartition('/')[0]}/shared_storage", tmp_path / "var"
    online = f"{redis_url.rpartition('/')[0]}/7"
    storage = Storage(
        home=str(home), warehouse=f"s3://{BUCKET}/lake", catalog_url=url, ledger_url=url, online_url=online
    )
    write_month(tmp_path, 0)
    settings = Settings(
        use_case=use_case(), storage=storage, home=str(home), data_dir=str(tmp_path),
        ingest=Ingest(error_budget=0.5, num_blocks=2),
    )  # fmt: skip
    (tmp_path / "job.pickle").write_bytes(pickle.dumps(settings))
    command = [sys.executable, "-c", JOB, str(tmp_path / "job.pickle"), ray.get_runtime_context().gcs_address]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["accepted"] == 2 * 3 * len(OWNERS) - 4
    client = redis.Redis.from_url(online)
    read = OnlineStore(online).read(f"{NAME}__activity", [(TENANT, WHO)])[0]
    assert read == {"count_30d": 3, "sum_events_30d": read and read["sum_events_30d"]}
    assert len(leftovers(objects(s3, tmp_path / "before"), WHO)) > 5

    told = forget(settings, "all", TENANT, WHO)

    assert told["removed"][f"quarantine.{NAME}__accounts"] == 1
    assert Tables(storage).count(f"raw.{NAME}__accounts") == 3 * len(OWNERS) - 4 - 2
    assert leftovers(objects(s3, tmp_path / "after"), WHO) == []
    assert not [cell for cell in cells(url) if WHO in cell]
    assert not [key for key in everything(client) if WHO in str(key)]
    assert leftovers(home, WHO) == []
    other = OWNERS[2][1]
    assert [key for key in everything(client) if other in str(key)]
    assert leftovers(tmp_path / "after", other)
