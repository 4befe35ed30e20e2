"""What an ingest says about the rows it refused: staged for real, without a cluster."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from raysaas.ingest.contract import check_rows
from raysaas.ingest.formats import blocks
from raysaas.ingest.planning import cut
from raysaas.ingest.refusals import examples, warning, worst
from raysaas.ingest.sources import describe
from raysaas.ingest.staging import Batch, Staged, decode, stage
from raysaas.use_case import Column, ColumnType, Source

SOURCE = Source(columns={"ratio": Column(min=-1), "n": Column(type=ColumnType.integer, max=2000)})


def _staged(folder: Path, *texts: str) -> list[Staged]:
    files = []
    for number, text in enumerate(texts):
        path = folder / f"nasty-{number}.csv"
        path.write_text(text)
        files.append(describe(str(path)))
    parts = tuple(cut(files, 2))
    empty, now = next(blocks(parts[0])), datetime(2026, 1, 1, tzinfo=UTC)
    rows = check_rows(empty.table, SOURCE, now=now, numbers=empty.numbers, file="", digest="0" * 64)
    batch = Batch(
        parts, SOURCE, rows.accepted.schema, {}, now, 0, f"file://{folder}/accepted", f"file://{folder}/refused"
    )
    return [decode(row) for row in stage(pa.table({"part": range(len(parts))}), batch)["result"].to_pylist()]


def _text(rows: dict[int, str]) -> str:
    return "\n".join(["ratio,n", *(rows.get(number, f"0.5,{number}") for number in range(1, 1001))])


def test_one_sentence_names_the_worst_rules_over_all_files_and_no_value(tmp_path: Path) -> None:
    first = _text({17: "inf,1", 20: "-inf,2", 30: "x,3", 40: "-7,4", 50: "-8,5", 60: "1,2,3"})
    staged = _staged(tmp_path, first, _text({3: "inf,9", 5: "-9,1", 8: "y,1", 9: "1,9999"}))
    assert [(one.rule, one.column, one.count) for one in worst(staged)] == [
        ("finite", "ratio", 3), ("min", "ratio", 3), ("type", "ratio", 2)
    ]  # fmt: skip
    (said,) = warning(staged, "quarantine.shop__rows")
    assert said == (
        "10 of 2,000 rows were refused into quarantine.shop__rows: finite on ratio: 3 (such as row 17 of nasty-0.csv), "
        "min on ratio: 3 (such as row 40 of nasty-0.csv), type on ratio: 2 (such as row 30 of nasty-0.csv)."
    )
    assert f"(such as 'inf', {tmp_path}/nasty-0.csv row 17)" in examples(staged)


def test_nothing_is_said_when_nothing_was_refused(tmp_path: Path) -> None:
    assert warning(_staged(tmp_path, _text({})), "quarantine.shop__rows") == ()


def test_a_row_that_is_no_row_has_a_rule_without_a_column(tmp_path: Path) -> None:
    (said,) = warning(_staged(tmp_path, _text({2: "1,2,3"})), "quarantine.q")
    assert said == "1 of 1,000 rows was refused into quarantine.q: columns: 1 (such as row 2 of nasty-0.csv)."
