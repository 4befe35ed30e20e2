"""Files of every kind that people really have, on disk."""

import csv
import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysaas.errors import InputError
from raysaas.ingest import formats
from raysaas.ingest.formats import blocks, split
from raysaas.ingest.sources import describe, discover, identifier, read
from raysaas.ingest.uris import told
from raysaas.use_case import Format, Source


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n", {"a": ["1"], "b": ["2"]}),
        ("a;b\n1,5;2\n", {"a": ["1,5"], "b": ["2"]}),
        ("a\tb\n1\t2\n", {"a": ["1"], "b": ["2"]}),
        ("a|b\n1|2\n", {"a": ["1"], "b": ["2"]}),
        ("a\n1\n2\n", {"a": ["1", "2"]}),
        ("\ufeffa,b\r\n1,2\r\n", {"a": ["1"], "b": ["2"]}),
        ('a,b\n"x\ny, z",2\n', {"a": ["x\ny, z"], "b": ["2"]}),
        ('a,"b ""q"""\n1,"say ""hi"""\n', {"a": ["1"], 'b "q"': ['say "hi"']}),
        ("a,b\n\n1,2\n\n\n3,4", {"a": ["1", "3"], "b": ["2", "4"]}),
        ("a,\n1,2\n", {"a": ["1"], "column_2": ["2"]}),
        ("prénom,b\nzoé,2\n".encode("latin-1"), {"prénom": ["zoé"], "b": ["2"]}),
    ],
)
def test_csv_dialects(tmp_path: Path, content: str | bytes, expected: dict[str, list[str]]) -> None:
    assert read(describe(str(_file(tmp_path, "x.csv", content)))).to_pydict() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"a,b\n", "a header and no rows"),
        ("x.csv", b"\x89PNG\r\n\x1a\n\0\0", "PNG image"),
        ("x.csv", b"\x1f\x8b\x08\0\0", "gzip-compressed.*decompress"),
        ("x.csv", b"\xff\xfea\0,\0b\0", "UTF-16.*save it as UTF-8"),
        ("x.csv", b"\x01\x02\0\0\0\0", "binary data"),
        ("x.csv", b"PAR1....PAR1", "first bytes are those of parquet"),
        ("x.parquet", b"a,b\n1,2\n", "first bytes are those of csv"),
        ("x.parquet", b"PAR1 and then something else", "not a readable Parquet file"),
        ("x.jsonl", b"a,b\n1,2\n", "should be jsonl"),
        ("x.json", b'[{"a": 1}]', "one JSON array"),
        ("x.csv", b"a,b,a\n1,2,3\n", "two columns named 'a'"),
        ("x.csv", b"1,2\n3,4\n", "not column names"),
    ],
)
def test_odd_files_are_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(InputError, match=message) as error:
        describe(str(path))
    assert str(path) in str(error.value)


def test_a_workbook_named_csv_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("sheet.xml", "<a/>")
    with pytest.raises(InputError, match="zip archive"):
        describe(str(_file(tmp_path, "x.csv", buffer.getvalue())))


def test_a_parquet_file_without_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no rows"):
        describe(str(tmp_path / "x.parquet"))


def test_json_lines(tmp_path: Path) -> None:
    text = '{"a": 1.50, "b/c": {"d": [1]}}\n\n{"a": "x", "b/c": null, "e": true}\nnot json\n[1]\n'
    file = describe(str(_file(tmp_path, "x.jsonl", text)))
    (block,) = blocks(split(file, 1 << 20)[0])
    assert block.table.to_pydict() == {"a": ["1.5", "x"], "b/c.d": ["[1]", None], "e": [None, "true"]}
    assert [(bad.number, bad.rule, bad.text) for bad in block.malformed] == [
        (3, "json", "not json"),
        (4, "json", "[1]"),
    ]
    assert block.numbers.tolist() == [1, 2]


def test_rows_of_the_wrong_width_are_set_apart_and_numbers_stay_right(tmp_path: Path) -> None:
    file = describe(str(_file(tmp_path, "x.csv", "a,b\n1,2\n3\n4,5\n6,7,8\n")))
    found = list(blocks(split(file, 1 << 20)[0]))
    assert [n for b in found for n in b.numbers.tolist()] == [1, 3]
    assert [bad.number for b in found for bad in b.malformed] == [2, 4]


def test_paths_globs_folders_and_uris(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "notes.md", ".hidden.csv", "deep/c.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        _file(tmp_path, name, f"a,b\n{name},1\n")

    def names(path: str) -> list[str]:
        return [f.uri.removeprefix(f"{tmp_path}/") for f in discover(Source(path=path), tmp_path)]

    assert names("*.csv") == ["a.csv", "b.csv"] or names("*.csv") == [".hidden.csv", "a.csv", "b.csv"]
    assert names("a.csv") == ["a.csv"]
    assert names("**/c.csv") == ["deep/c.csv"]
    assert names(".") == names(str(tmp_path))
    assert [n.rpartition("/")[2] for n in names(".")] == ["a.csv", "b.csv", "c.csv"]
    assert names(f"file://{tmp_path}/b.csv") == ["b.csv"]


@pytest.mark.parametrize("path", ["nothing.csv", "*.nothing", "ftp://host/x.csv", ""])
def test_a_path_that_names_nothing(tmp_path: Path, path: str) -> None:
    with pytest.raises(InputError):
        discover(Source(path=path), tmp_path)


@pytest.mark.parametrize(
    ("path", "data_dir", "message"),
    [
        ("gone.csv", "{tmp}", "{tmp}/gone.csv: no such file or directory. Check the path, or data_dir='{tmp}'."),
        ("{tmp}/gone.csv", None, "{tmp}/gone.csv: no such file or directory. Check the path."),
        ("gone.csv", None, "{cwd}/gone.csv: no such file or directory. Check the path, or set data_dir=FOLDER."),
        ("{tmp}/*.csv", None, "{tmp}/*.csv: nothing matches. Check the path."),
        ("file://{tmp}/gone.csv", None, "{tmp}/gone.csv: no such file or directory. Check the path."),
        (
            "{tmp}",
            "elsewhere",
            "{tmp}: a directory without a data file (.csv, .tsv, .txt, .parquet, .pq, .jsonl, .ndjson, .json). "
            "Check the path.",
        ),
    ],
)
def test_what_is_missing_is_said_once(tmp_path: Path, path: str, data_dir: str | None, message: str) -> None:
    _file(tmp_path, "notes.md", "nothing to read")
    filled = {"tmp": str(tmp_path), "cwd": str(Path.cwd())}
    with pytest.raises(InputError) as error:
        discover(Source(path=path.format(**filled)), data_dir and data_dir.format(**filled))
    assert str(error.value) == message.format(**filled)


def test_declared_format_wins_over_the_suffix(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.data", "a,b\n1,2\n")
    assert discover(Source(path=str(path), format=Format.csv), None)[0].format is Format.csv
    assert discover(Source(path=str(path)), None)[0].format is Format.csv


cells = st.text(alphabet='ab", \n;é', max_size=6)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(cells, cells, st.just("end")), min_size=1, max_size=15),
    size=st.integers(1, 60),
    chunk=st.integers(7, 40),
)
def test_cutting_a_file_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], size: int, chunk: int
) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("x", "y", "z"), *rows])
    file = describe(str(_file(tmp_path_factory.mktemp("cut"), "x.csv", buffer.getvalue())))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats, "_CHUNK", chunk)
        parts = split(file, size)
    found = [
        (n, *row)
        for p in parts
        for b in blocks(p)
        for n, row in zip(b.numbers.tolist(), zip(*b.table.to_pydict().values(), strict=True), strict=True)
    ]
    whole = [(n, *row) for n, row in enumerate(zip(*read(file).to_pydict().values(), strict=True), 1)]
    assert found == whole
    assert len(found) == len(rows)


def test_a_stray_quote_is_not_taken_for_quoting(tmp_path: Path) -> None:
    text = "size,n\n" + '5" pipe,1\n6 inch,2\n' * 50
    file = describe(str(_file(tmp_path, "x.csv", text)))
    assert len(split(file, 100)) == 1
    assert read(file).num_rows == 100


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=20))
def test_identifier_is_one_and_stays_as_it_is(name: str) -> None:
    made = identifier(name)
    assert made.isidentifier()
    assert made.isascii()
    assert identifier(made) == made


def test_identifiers_read_like_the_name() -> None:
    assert [identifier(n) for n in ("PM2.5", " Unit price ($)", "2nd", "ok_1", "", "row_id")] == [
        "PM2_5", "Unit_price", "_2nd", "ok_1", "column", "row_id_",
    ]  # fmt: skip


def test_identifiers_spell_umlauts_out_and_drop_accents() -> None:
    names = ("gekündigt", "Größe (m²)", "Öl", "prénom", "São Paulo", "zażółć", "u\u0308ber", "user.née")
    assert [identifier(n) for n in names] == [
        "gekuendigt", "Groesse_m2", "Oel", "prenom", "Sao_Paulo", "zazolc", "ueber", "user_nee",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("uri", "seen"),
    [
        ("s3://key:secret@bucket/a/?-*.csv?region=x&scheme=http", "s3://bucket/a/?-*.csv"),
        ("s3://bucket/a.csv", "s3://bucket/a.csv"), ("/data/what?.csv", "/data/what?.csv"), ("a?b=c.csv", "a?b=c.csv"),
        ("C:\\data\\x.csv", "C:\\data\\x.csv"), ("s3://bucket/me@home/a.csv", "s3://bucket/me@home/a.csv"),
    ],
)  # fmt: skip
def test_uris_are_told_without_keys_and_options(uri: str, seen: str) -> None:
    assert told(uri) == seen


@pytest.mark.parametrize("uri", ["nofs://key:secret@bucket/a.csv", "s3://key:secret@/a.csv?scheme=nope"])
def test_a_uri_that_cannot_be_opened_keeps_its_key(uri: str) -> None:
    with pytest.raises(InputError, match="that can be opened") as error:
        discover(Source(path=uri), None)
    assert "secret" not in str(error.value)
