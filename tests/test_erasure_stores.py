"""Nothing is left of who was forgotten in the stores of a cluster either: S3 objects and their older versions, every
column of PostgreSQL and its files, every key and value of Redis and its files."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import httpx
import pytest
import redis as redis_client
import sqlalchemy as sa
from moto.server import ThreadedMotoServer
from tests.leftovers import leftovers
from tests.services import redis
from tests.test_erasure import OTHER, OWNERS, TENANT, filled, owners, registry_db

from raysaas.datasets.erasure import forget
from raysaas.settings import Settings
from raysaas.stores.object_versions import drop_versions

__all__ = ["registry_db"]
BUCKET = "lake"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a real S3 server with a bucket that keeps versions, found by the SDK's own variables."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    for name, value in {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "me",
                        "SECRET_ACCESS_KEY": "topsecret", "DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(f"AWS_{name}", value)
    httpx.post(f"http://127.0.0.1:{port}/moto-api/reset")  # servers of one process share what they hold
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    try:
        yield client
    finally:
        server.stop()


def objects(client: Any, folder: Path) -> Path:
    """Every version of every object, as files below ``folder``."""
    for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET):
        for one in page.get("Versions", []):
            body = client.get_object(Bucket=BUCKET, Key=one["Key"], VersionId=one["VersionId"])["Body"].read()
            path = folder / one["VersionId"] / one["Key"].strip("/")
            if body:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body)
    return folder


def cells(url: str) -> list[str]:
    """Every row of every table of a PostgreSQL, as text."""
    with sa.create_engine(url).connect() as connection:
        names = sa.inspect(connection).get_table_names()
        return [str(row) for name in names for row in connection.exec_driver_sql(f'SELECT t::text FROM "{name}" t')]


def files_of(url: str) -> Path:
    """The folder of a PostgreSQL's tables, with all that it holds written out."""
    with sa.create_engine(url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("CHECKPOINT")
        return Path(str(connection.exec_driver_sql("SHOW data_directory").scalar())) / "base"


@pytest.fixture
def shop(make_settings: Callable[..., Settings], home: Path, tmp_path: Path, registry_db: Path) -> Callable[..., Any]:
    """``shop("storage.x=...")``: the subject in every place, with stores of its own."""
    home.mkdir()
    shutil.copy(registry_db, home)

    def fill(*overrides: str) -> SimpleNamespace:
        settings = make_settings("serve.segment_age_s=0.1", f"data_dir={tmp_path}", *overrides)
        return filled(settings, home, tmp_path)

    return fill


def test_objects_and_their_older_versions(shop: Callable[..., Any], s3: Any, tmp_path: Path) -> None:
    made = shop(f"storage.warehouse=s3://{BUCKET}/wh")
    made.online.drop("market__row")
    assert len(leftovers(objects(s3, tmp_path / "before"), TENANT)) > 10
    told = forget(made.settings, "all", TENANT, None)
    assert owners(made.tables, "raw.shop__orders") == sorted(owner for owner in OWNERS if TENANT not in owner)
    after = objects(s3, tmp_path / "after")
    assert leftovers(after, TENANT) == []
    assert leftovers(made.home, TENANT) == []
    assert not [place for place in told["remains"] if "s3://" in place]
    assert leftovers(after, OTHER), "the search would have found it"


def test_a_bucket_that_refuses_is_told_of(s3: Any) -> None:
    assert drop_versions("s3://no-such-bucket/wh/raw")[1].startswith("s3://no-such-bucket keeps older versions")
    assert drop_versions("file:///wh/raw") == (0, "")
    assert "was not looked into" in drop_versions("gs://bucket/wh")[1]


def test_rows_of_postgresql_and_keys_of_redis(shop: Callable[..., Any], postgres_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE erasure")
    url = postgres_url.rpartition("/")[0] + "/erasure"
    folder = tmp_path / "redis"
    folder.mkdir()
    with redis("--dir", str(folder), "--appendonly", "yes", "--save", "3600 1000000") as online:
        made = shop(f"storage.catalog_url={url}", f"storage.ledger_url={url}", f"storage.online_url={online}")
        made.online.drop("market__row")
        client = redis_client.Redis.from_url(online)
        client.bgsave()
        assert any(TENANT in cell for cell in cells(url))
        assert any(TENANT in str(key) for key in everything(client))
        assert grep(files_of(url), TENANT)
        assert grep(folder, TENANT)

        told = forget(made.settings, "all", TENANT, None)

        assert not [cell for cell in cells(url) if TENANT in cell]
        assert not [key for key in everything(client) if TENANT in str(key)]
        assert not grep(files_of(url), TENANT)
        assert not grep(folder, TENANT)
        assert leftovers(made.home, TENANT) == []
        assert any(OTHER in cell for cell in cells(url))
        assert any(OTHER in str(key) for key in everything(client))
        assert grep(folder, OTHER)
        assert grep(files_of(url), OTHER)
        assert made.online.keys("shop__row") == sorted(owner for owner in OWNERS if TENANT not in owner)
        assert [place for place in told["remains"] if place.startswith("postgresql: write-ahead log")]
        assert url not in str(told)
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP DATABASE erasure WITH (FORCE)")


def everything(client: Any) -> list[Any]:
    """Every key of a Redis with all its fields and values."""
    read = {b"hash": client.hgetall, b"string": client.get, b"set": client.smembers, b"stream": client.xrange,
            b"zset": lambda key: client.zrange(key, 0, -1), b"list": lambda key: client.lrange(key, 0, -1)}  # fmt: skip
    return [(key, read[client.type(key)](key)) for key in client.scan_iter()]


def grep(folder: Path, name: str) -> list[str]:
    """Files whose bytes hold ``name``."""
    done = subprocess.run(["grep", "-rlaF", name, str(folder)], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()
