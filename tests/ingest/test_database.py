"""Rows of a real PostgreSQL and a real SQLite as extracts: types kept, nothing twice, mistakes told without secrets."""

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from raysaas.errors import ConfigError, InputError, RaysaasError, Unavailable
from raysaas.ingest.database import OFFSET, Database, shown
from raysaas.ingest.formats import SourceFile
from raysaas.ingest.inbox import Extract, Inbox
from raysaas.ingest.sources import read
from raysaas.use_case import Column, Examples, Format, Source, Sql, UseCase

Db = Callable[..., Database]


@pytest.fixture
def database(tmp_path: Path) -> Db:
    """``database(url=..., table=...)``: a source over its own inbox."""

    def make(**sql: Any) -> Database:
        folders = [Inbox(f"file://{tmp_path}/warehouse", "shop__orders", kind) for kind in ("sql", "offset")]
        return Database(Sql(**sql), "use_case.sources.orders.sql", *folders)

    return make


@pytest.fixture
def postgres(postgres_url: str) -> Callable[..., None]:
    """Run statements; what they made in schema ``s`` is gone for the next test."""
    engine = create_engine(postgres_url)

    def run(*statements: str, **values: Any) -> None:
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    run("DROP SCHEMA IF EXISTS s CASCADE", "CREATE SCHEMA s")
    return run


def _rows(extract: Extract) -> list[dict[str, Any]]:
    return [row for file in extract.files for row in read(file).to_pylist()]


def _committed(database: Database, before: str | None = None) -> tuple[list[dict[str, Any]], str | None]:
    """A run whose commit came about: its rows and the offset behind them."""
    made = database.extract(before)
    rows, after = _rows(made), made.properties.get(OFFSET, before)
    database.clean(after)
    return rows, after


def test_types_of_postgresql_are_kept(postgres: Any, postgres_url: str, database: Db) -> None:
    postgres(
        "CREATE TYPE s.mood AS ENUM ('sad', 'ok')",
        """CREATE TABLE s.kinds (i int, b bigint, n numeric(30, 10), d double precision, t text, ok boolean, day date,
           plain timestamp, zoned timestamptz, j jsonb, u uuid, a int[], m s.mood, span interval)""",
        """INSERT INTO s.kinds VALUES (1, 9007199254740993, 12.5, 'NaN', 'ä'';x', true, '2026-01-02',
           '2026-01-02 03:04:05.678901', '2026-01-02 03:04:05+02', '{"x": [1, 2.50]}',
           '00000000-0000-0000-0000-000000000001', '{1,2}', 'ok', '1 day')""",
        "INSERT INTO s.kinds (i) VALUES (NULL)",
    )
    (file,) = database(url=postgres_url, table="s.kinds").extract(None).files
    found = read(file)
    assert {f.name: str(f.type) for f in found.schema} == {
        "i": "int64", "b": "int64", "n": "double", "d": "double", "t": "string", "ok": "bool", "day": "date32[day]",
        "plain": "timestamp[us]", "zoned": "timestamp[us, tz=UTC]", "j": "string", "u": "string", "a": "string",
        "m": "string", "span": "string",
    }  # fmt: skip
    row, nothing = found.to_pylist()
    assert str(row.pop("d")) == "nan"
    assert row == {
        "i": 1, "b": 9007199254740993, "n": 12.5, "t": "ä';x", "ok": True, "day": date(2026, 1, 2),
        "plain": datetime(2026, 1, 2, 3, 4, 5, 678901), "zoned": datetime(2026, 1, 2, 1, 4, 5, tzinfo=UTC),
        "j": '{"x": [1, 2.50]}', "u": "00000000-0000-0000-0000-000000000001", "a": "[1,2]", "m": "ok",
        "span": "1 day, 0:00:00",
    }  # fmt: skip
    assert set(nothing.values()) == {None}
    assert found.num_rows == 2


def test_a_growing_table_is_read_once(postgres: Any, postgres_url: str, database: Db) -> None:
    postgres(
        "CREATE TABLE s.orders (id int, at timestamptz)",
        "INSERT INTO s.orders SELECT i, '2026-01-01Z'::timestamptz + i / 2 * interval '1 s' "
        "FROM generate_series(0, 9) i",
        "INSERT INTO s.orders VALUES (99, NULL)",
    )
    orders = database(url=postgres_url, table="s.orders", watermark="at", batch_rows=4)
    made = orders.extract(None)
    assert [file.uri.rpartition(" part ")[2] for file in made.files] == ["1", "2", "3"]
    assert made.files[0].uri.removesuffix(" part 1") == (
        f"{shown(postgres_url)} table s.orders (, 2026-01-01 00:00:04+00:00]"
    )
    assert made.warnings == (f"1 rows of {shown(postgres_url)} have no at: they are never read. Fill the column.",)
    rows, after = _committed(orders)
    assert [row["id"] for row in rows] == list(range(10))
    assert _committed(orders, after) == ([], after)
    postgres("INSERT INTO s.orders VALUES (10, '2026-01-01 00:00:04Z'), (9, '2026-01-01 00:00:04Z'), "
             "(11, '2026-01-01 00:00:05Z'), (12, '2025-12-31Z')")  # fmt: skip
    rows, after = _committed(orders, after)
    assert sorted(row["id"] for row in rows) == [9, 10, 11], "12 lies behind the watermark"
    assert _committed(orders, after)[0] == []


def test_an_offset_with_many_rows_at_the_boundary_lies_in_a_file(
    postgres: Any, postgres_url: str, database: Db
) -> None:
    postgres("CREATE TABLE s.bulk AS SELECT i, now() AS at FROM generate_series(1, 500) i")
    bulk = database(url=postgres_url, table="s.bulk", watermark="at")
    rows, after = _committed(bulk)
    assert len(rows) == 500
    assert len(after or "") < 1000
    postgres("INSERT INTO s.bulk SELECT 501, max(at) FROM s.bulk")
    before, (rows, after) = after, _committed(bulk, after)
    assert [row["i"] for row in rows] == [501]
    assert before != after
    assert [path.name for path in Path(bulk.offsets.uri.removeprefix("file://")).iterdir()] == [
        json.loads(after or "")["taken"]
    ]


def test_an_extract_of_a_killed_run_is_taken_up_again_and_half_of_one_removed(
    postgres: Any, postgres_url: str, database: Db
) -> None:
    postgres("CREATE TABLE s.orders (id int, at int)", "INSERT INTO s.orders VALUES (1, 1)")
    orders = database(url=postgres_url, table="s.orders", watermark="at")
    first = orders.extract(None)
    postgres("INSERT INTO s.orders VALUES (2, 2)")
    assert orders.extract(None) == first, "no commit came about: the same files again"
    assert len(_rows(database(url=postgres_url, query="SELECT * FROM s.orders WHERE at > 0").extract(None))) == 2
    folder = Path(orders.inbox.uri.removeprefix("file://"))
    (folder / "extract.json").unlink()
    (folder / "part-00007.parquet").write_bytes(b"PAR1 half")
    assert len(_rows(orders.extract(None))) == 2
    assert sorted(path.name for path in folder.iterdir()) == ["extract.json", "part-00000.parquet"]
    orders.clean(None)
    assert not folder.exists()


def test_without_a_watermark_equal_content_has_equal_digests(postgres: Any, postgres_url: str, database: Db) -> None:
    postgres("CREATE TABLE s.plans (name text, price numeric)", "INSERT INTO s.plans VALUES ('a', 1), ('b', 2)")
    plans = database(url=postgres_url, query="SELECT name, price FROM s.plans -- all of them;\n;")

    def digests() -> list[str]:
        made = [file.digest for file in plans.extract(None).files]
        plans.clean(None)
        return made

    before = digests()
    postgres("DELETE FROM s.plans WHERE name = 'a'", "INSERT INTO s.plans VALUES ('a', 1)")
    assert digests() == before, "another order of the same rows"
    postgres("INSERT INTO s.plans VALUES ('a', 1)")
    assert digests() != before
    postgres("DELETE FROM s.plans")
    assert plans.extract(None).files == ()


def test_sqlite_and_colons_and_odd_names(tmp_path: Path, database: Db) -> None:
    path = tmp_path / "crm.db"
    with sqlite3.connect(path) as db:
        db.execute('CREATE TABLE "my orders" (id INTEGER, "Seen At" TEXT, mixed, price REAL)')
        db.executemany('INSERT INTO "my orders" VALUES (?, ?, ?, ?)', [
            (1, "2026-01-01 10:00:00", 5, 1), (2, "2026-01-01 10:00:01", "five", None), (3, None, None, 2.5),
        ])  # fmt: skip
    orders = database(url=f"sqlite:///{path}", table="my orders", watermark="Seen At")
    rows, after = _committed(orders)
    assert rows == [
        {"id": 1, "Seen At": "2026-01-01 10:00:00", "mixed": "5", "price": 1.0},
        {"id": 2, "Seen At": "2026-01-01 10:00:01", "mixed": "five", "price": None},
    ]
    assert _committed(orders, after)[0] == []
    query = "SELECT id, ' :x 12:30' AS note FROM \"my orders\" WHERE id % 2 = 1"
    assert _rows(database(url=f"sqlite:///{path}", query=query).extract(None)) == [
        {"id": 1, "note": " :x 12:30"}, {"id": 3, "note": " :x 12:30"}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "error", "said"),
    [
        ({"table": "s.nowhere"}, ConfigError, 'sql: postgresql://.* refuses it: relation "s.nowhere" does not exist'),
        ({"query": "SELEC 1"}, ConfigError, "syntax error"),
        ({"table": "s.orders", "watermark": "att"}, ConfigError, 'column "att" does not exist'),
        ({"query": "SELECT 1 AS a, 2 AS a"}, ConfigError, "two columns named 'a'"),
        ({"query": "SELECT 'x'::bytea AS raw"}, ConfigError, "'raw' is binary"),
        ({"query": "SELECT 1 / 0 AS x"}, ConfigError, "division by zero"),
        ({"query": "DELETE FROM s.orders RETURNING id"}, ConfigError, "syntax error"),
        ({"url": "postgresql://u:pa%24s@127.0.0.1:1/x", "table": "t"}, Unavailable, "127.0.0.1:1/x does not answer"),
        ({"url": "nonsense", "table": "t"}, ConfigError, "no SQLAlchemy URL"),
        ({"url": "nodb://h/d", "table": "t"}, ConfigError, "no driver for 'nodb'"),
        ({"url": "sqlite:////nowhere.db", "table": "t"}, InputError, "no SQLite file '/nowhere.db'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_without_a_secret(
    postgres: Any, postgres_url: str, database: Db, sql: dict[str, Any], error: type[RaysaasError], said: str
) -> None:
    postgres("CREATE TABLE s.orders (id int)")
    with pytest.raises(error, match=said) as told:
        database(**{"url": postgres_url.replace("raysaas@", "raysaas:pa%24s@"), **sql}).extract(None)
    assert type(told.value) is error
    assert "pa$s" not in str(told.value)
    assert "pa%24s" not in str(told.value)
    assert "\n" not in str(told.value)


def test_another_watermark_is_refused(tmp_path: Path, database: Db) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS a, 2 AS b")
    _, after = _committed(database(url=f"sqlite:///{path}", table="t", watermark="a"))
    with pytest.raises(ConfigError, match="was read by 'a' so far"):
        database(url=f"sqlite:///{path}", table="t", watermark="b").extract(after)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ({"url": "", "table": "t"}, "sql.url"), ({"url": "x://", "table": "t", "query": "q"}, "either table or query"),
        ({"url": "x://"}, "either table or query"), ({"url": "x://", "table": "t", "lag": 5}, "a watermark"),
        ({"url": "x://", "table": "t", "batch_rows": 0}, "positive"),
    ],
)  # fmt: skip
def test_settings_are_checked(sql: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Sql(**sql)
    assert "secret" not in repr(Sql(url="postgresql://u:secret@h/d", table="t"))


def test_an_extract_is_read_back_as_it_was(tmp_path: Path) -> None:
    inbox = Inbox(f"file://{tmp_path}", "a__b", "sql")
    file = SourceFile(
        "db table t (, 1]", Format.parquet, "d", 5, header=("a.b",), paths=(("a", "b"),), place="file:///x"
    )
    made = inbox.keep(Extract("basis", (file,), {"k": "v"}, ("w",)))
    assert inbox.waiting() == made


def test_what_a_source_may_be_together_is_checked() -> None:
    sql, columns = Sql(url="x://", table="t"), {"a": Column()}
    with pytest.raises(ConfigError, match="either path or sql"):
        Source(path="a.csv", sql=sql)
    with pytest.raises(ConfigError, match="declares its columns"):
        Source(events=True)
    with pytest.raises(ConfigError, match="'my-events' is not allowed"):
        UseCase(
            name="u", sources={"my-events": Source(events=True, columns=columns)},
            examples=Examples(source="my-events", label="a"),
        )  # fmt: skip
