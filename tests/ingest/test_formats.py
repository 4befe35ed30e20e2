"""Where a file is cut, and how its rows are numbered then, whatever the size of what is read at once."""

from pathlib import Path

import pytest

from raysaas.ingest import formats
from raysaas.ingest.formats import blocks, split
from raysaas.ingest.sources import describe

TEXTS = {
    "plain": "a,b\n1,2\n3,4\n5,6\n7,8\n9,10",
    "empty lines": "a,b\n\n1,2\n\n\n3,4\n5,6\n\n7,8\n\n",
    "windows": "a,b\r\n1,2\r\n\r\n3,4\r\n5,6\r\n",
    "quoted": 'a,b\n1,"x\ny"\n3,4\n"5\n\n5",6\n7,8\n',
}


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 11, 1000])
@pytest.mark.parametrize("kind", TEXTS)
def test_rows_are_numbered_alike_however_a_file_is_read_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, chunk: int
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(TEXTS[kind], newline="")
    file = describe(str(path))
    (whole,) = blocks(split(file, 1 << 20)[0])
    monkeypatch.setattr(formats, "_CHUNK", chunk)
    parts = split(file, 6)
    monkeypatch.undo()
    read = [block for part in parts for block in blocks(part)]
    assert [n for block in read for n in block.numbers.tolist()] == whole.numbers.tolist()
    assert [row for block in read for row in block.table.to_pylist()] == whole.table.to_pylist()
    assert len(parts) > 1
