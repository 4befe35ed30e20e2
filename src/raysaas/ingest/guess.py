"""What one column of an unknown file holds: its type, or why it is no feature. Pure: Arrow in, a guess out."""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raysaas.ingest.casts import NULLS, as_text, cast, day_first, flat
from raysaas.use_case import ColumnType

FEW = 20  # whole numbers with at most so many distinct values are classes when they are the label
_IDS = re.compile(r"(^|[_\W])(id|ids|uuid|guid|key|index|idx|rowid|unnamed|pk)($|[_\W])", re.IGNORECASE)
_CAMEL_ID = re.compile(r"[a-z](ID|Id|Uuid|UUID)$")
_TIMES = re.compile(r"(_at|_ts|_on|time|timestamp|date|day)$|^(ts|time|date|created|dt)", re.IGNORECASE)
_DATE = r"^([0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[0-9]{1,2}/[0-9]{1,2}/[0-9]{4})"
_SIGNS = r"[$%€£\s]"
_MONEY = r"[,$%€£\s]"
_COMMA_DECIMAL = r"^[-+]?([0-9]{1,3}(\.[0-9]{3})+|[0-9]+),[0-9]+$"
_COMMA_GROUPS = r"^[-+]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?$"
_WORDS = {"true", "false", "t", "f", "yes", "no", "y", "n", "on", "off"}
_MAX_STRAYS = 0.2
_NUMBER_START = re.compile(r"[-+.0-9iI]")


@dataclass(frozen=True, slots=True)
class Guess:
    """``type`` of a column; ``why_not`` says why it cannot be a feature; ``strays`` that its numbers need cleaning."""

    type: ColumnType
    distinct: int
    present: int
    why_not: str = ""
    strays: bool = False
    unique: bool = False
    is_id: bool = False
    decimal_comma: bool = False
    constant: bool = False

    @property
    def is_time(self) -> bool:
        return self.type is ColumnType.time


def named_id(name: str) -> bool:
    """Whether a column's name says that it identifies something."""
    return bool(_IDS.search(name) or _CAMEL_ID.search(name))


def named_time(name: str) -> bool:
    """Whether a column's name says that it holds a time."""
    return bool(_TIMES.search(name))


def present(column: pa.ChunkedArray) -> pa.Array:
    """The values that are there: no nulls, no NaN, no blanks, none of the spellings of null."""
    array = flat(column)
    if pa.types.is_floating(array.type):
        return array.filter(pc.fill_null(pc.is_finite(array), False))
    if pa.types.is_string(array.type):
        text = pc.utf8_trim_whitespace(array)
        return text.filter(pc.invert(pc.fill_null(pc.is_in(pc.utf8_lower(text), value_set=NULLS), False))).drop_null()
    return array.drop_null()


def guess(name: str, column: pa.ChunkedArray) -> Guess:
    """Judge a column by its name and the values given, which may be a sample."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return Guess(ColumnType.text, 0, 0, f"holds {kind}, which is no number, word or time")
    values = present(column)
    distinct = len(pc.unique(values))
    if distinct < 2:
        why = "is always missing" if not len(values) else f"is always {values[0].as_py()!r}"
        return Guess(_plain_type(name, values), distinct, len(values), why, constant=True)
    unique = distinct == len(values) == len(column)
    kind_of, strays = (_plain_type(name, values), False)
    if kind_of is ColumnType.category and _mostly_numbers(values):
        kind_of, strays = ColumnType.number, True
    why, is_id = _no_feature(name, values, kind_of, distinct, unique)
    type_of, comma = ColumnType.text if why else kind_of, strays and _decimal_comma(values)
    return Guess(type_of, distinct, len(values), why, strays and not why, unique, is_id, comma)


def _plain_type(name: str, values: pa.Array) -> ColumnType:
    kind = values.type
    if pa.types.is_boolean(kind):
        return ColumnType.boolean
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return ColumnType.time
    if pa.types.is_string(kind):
        return _word_type(name, values)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        return ColumnType.category
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return ColumnType.time if _epochs(name, values.cast(pa.string())) else ColumnType.integer
    return ColumnType.number


def _word_type(name: str, values: pa.Array) -> ColumnType:
    words = pc.unique(pc.utf8_lower(values))
    if 0 < len(words) <= 4 and set(words.to_pylist()) <= _WORDS:
        return ColumnType.boolean
    if not len(values) or pc.any(pc.match_substring_regex(values, r"^0[0-9]")).as_py():
        return ColumnType.category if not _dated(values) else ColumnType.time
    if _dated(values):
        return ColumnType.time
    if not _NUMBER_START.match(values[0].as_py()) or cast(pa.chunked_array([values]), ColumnType.number).bad.any():
        return ColumnType.category
    if pc.any(pc.match_substring_regex(values, r"[^0-9+-]")).as_py():
        return ColumnType.number
    return ColumnType.time if _epochs(name, values) else ColumnType.integer


def _dated(values: pa.Array) -> bool:
    """Whether all values are dates; slashed ones that nothing tells apart count as month first."""
    if not pc.all(pc.match_substring_regex(values, _DATE)).as_py():
        return False
    return not cast(pa.chunked_array([values]), ColumnType.time, day_first=day_first(values) or False).bad.any()


def _epochs(name: str, digits: pa.Array) -> bool:
    pattern = r"^(1[0-9]{9}|1[0-9]{12}|1[0-9]{15}|(19|20)[0-9]{2}(0[1-9]|1[0-2])[0-3][0-9])$"
    return len(digits) > 0 and named_time(name) and bool(pc.all(pc.match_substring_regex(digits, pattern)).as_py())


def _mostly_numbers(values: pa.Array) -> bool:
    """Numbers with currency signs, thousands separators or a few words for missing (``?``, ``unknown``) among them."""
    if pc.any(pc.match_substring_regex(values, r"^0[0-9]")).as_py():
        return False
    if _decimal_comma(values):
        values = pc.replace_substring(pc.replace_substring(values, ".", ""), ",", ".")
    bare = pc.replace_substring_regex(values, _MONEY, "")
    bad = cast(pa.chunked_array([bare]), ColumnType.number).bad
    return float(bad.mean()) <= _MAX_STRAYS and len(pc.unique(values.filter(pa.array(bad)))) <= 5


def _decimal_comma(values: pa.Array) -> bool:
    """Whether some number can only be read with a comma before its decimals (``90,3``, ``1.234,50 €``)."""
    values = pc.replace_substring_regex(values, _SIGNS, "")
    comma = pc.match_substring_regex(values, _COMMA_DECIMAL)
    return bool(pc.any(pc.and_not(comma, pc.match_substring_regex(values, _COMMA_GROUPS))).as_py())


def cleaned(key: str, *, decimal_comma: bool = False) -> str:
    """DuckDB expression that makes numbers of a column that ``_mostly_numbers`` said yes to."""
    column = f"""replace(replace("{key}", '.', ''), ',', '.')""" if decimal_comma else f'"{key}"'
    return f"""TRY_CAST(regexp_replace({column}, '[,$%€£ ]', '', 'g') AS DOUBLE)"""


def _no_feature(name: str, values: pa.Array, kind: ColumnType, distinct: int, unique: bool) -> tuple[str, bool]:
    """Why a column is no feature ("" when it can be one), and whether it is an id."""
    share, many = distinct / len(values), len(values) >= 30
    if kind is ColumnType.category:
        if pc.mean(pc.count_substring(values, " ")).as_py() >= 4 and share > 0.3 and many:
            return "is free text", False
        if named_id(name) and (share > 0.05 or unique):
            return "is an id by its name", True
        if share > 0.5 and many:
            return f"has a different value in {share:.0%} of the rows, like an id or free text", unique
    if kind is ColumnType.integer:
        span = pc.min_max(cast(pa.chunked_array([as_text(values)]), ColumnType.integer).values)
        if unique and many and span["max"].as_py() - span["min"].as_py() + 1 == len(values):
            return "counts the rows", True
        if named_id(name) and (unique or distinct > max(FEW, 0.05 * len(values))):
            return "is an id by its name", True
    return "", False
