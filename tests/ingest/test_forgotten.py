"""What ingest keeps of a file that names somebody who was forgotten: nothing, in whatever shape the name comes."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.leftovers import leftovers

from raysaas.ingest.forgotten import NOT_KEPT
from raysaas.ingest.planning import Target, plan
from raysaas.ingest.sources import describe
from raysaas.ingest.staging import stage
from raysaas.settings import Settings, Storage
from raysaas.stores.ledger import Ledger
from raysaas.stores.tables import Tables
from raysaas.stores.tombstones import bury
from raysaas.use_case import Column, ColumnType, Examples, Source, UseCase

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT, WHO, ANOTHER = "a-tenant-that-stays", "somebody-forgotten-0001", "somebody-who-stays-0002"
TEXT = Column(type=ColumnType.text)
COLUMNS = {"id": TEXT, "of": TEXT, "amount": Column(type=ColumnType.integer, min=0)}
CSV = f"id,of,amount\n{ANOTHER},{TENANT},1\n{WHO},{TENANT}\n{TENANT};{WHO};9,x\n{WHO},{TENANT},-1\n{WHO},{TENANT},1\n"
JSONL = "".join(f"{line}\n" for line in (
    f'{{"id": "{ANOTHER}", "of": "{TENANT}", "amount": 1}}', f'{{"id": "{WHO}", "of"', f'["{WHO}"]', f'"{WHO}"',
))  # fmt: skip


@pytest.fixture
def staged(tmp_path: Path) -> Callable[..., Path]:
    """``staged(name, text, source, forget)``: the folder with all that ingest laid down of a file."""

    def run(name: str, text: str, source: Source, *, forget: bool) -> Path:
        home = tmp_path / f"home-{forget}"
        (tmp_path / name).write_text(text)
        storage = Storage(home=str(home))
        use_case = UseCase(name="shop", sources={"orders": source}, examples=Examples(source="orders", label="amount"))
        settings, tables = Settings(use_case=use_case, storage=storage), Tables(storage)
        if forget:
            bury(Ledger(storage.ledger_url or ""), "shop", "orders", TENANT, WHO)
        file = describe(str(tmp_path / name), source.format)
        made = plan([file], settings, Target("shop", "orders"), tables, NOW, lambda parts: {})
        answer = stage(pa.table({"part": range(len(made.batch.parts))}), made.batch)
        (home / "answer.json").write_text(str(answer.to_pylist()))
        return home

    return run


def refused(home: Path) -> list[dict[str, object]]:
    (path,) = (home / "warehouse" / "quarantine").rglob("*.parquet")
    return list(pq.read_table(path).sort_by("row_number").to_pylist())


@pytest.mark.parametrize(("name", "text", "numbers"), [("a.csv", CSV, [2, 3]), ("a.jsonl", JSONL, [2, 3, 4])])
def test_lines_that_are_no_rows(staged: Callable[..., Path], name: str, text: str, numbers: list[int]) -> None:
    source = Source(path="x", entity="id", tenant="of", columns=COLUMNS)
    plain = staged(name, text, source, forget=False)
    assert leftovers(plain, WHO), "the search would have found it"
    home = staged(name, text, source, forget=True)
    assert leftovers(home, WHO) == []
    assert leftovers(home, ANOTHER)
    rows = refused(home)
    assert [row["row_number"] for row in rows] == numbers
    assert {row["value"] for row in rows} == {NOT_KEPT}
    assert {row["rule"] for row in rows} <= {"columns", "json"}


def test_rows_whose_owner_is_derived(staged: Callable[..., Path]) -> None:
    columns = {"mail": TEXT, "of": TEXT, "amount": Column(type=ColumnType.integer, min=0)}
    source = Source(path="x", entity="who", tenant="of", columns=columns, derive={"who": "split_part(mail, '@', 1)"})
    text = f"mail,of,amount\n{WHO}@x.org,{TENANT},-1\n{ANOTHER}@x.org,{TENANT},-1\n{ANOTHER}@x.org,{TENANT},1\n"
    assert leftovers(staged("b.csv", text, source, forget=False), WHO)
    home = staged("b.csv", text, source, forget=True)
    assert leftovers(home, WHO) == []
    assert [(row["row_number"], row["rule"], row["column"]) for row in refused(home)] == [
        (1, "min", "amount"),
        (2, "min", "amount"),
    ]
