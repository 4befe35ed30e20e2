"""Text, or any Arrow column, to the platform's types, column by column; what does not fit is masked, never raised.

The fast path is one Arrow cast that succeeds when every value is plain; only values that are not take the slow path,
DuckDB's ``TRY_CAST`` behind a check of the spelling. Both give the same values. ``spelling.py`` tells them apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.ingest.spelling import may_need_cleaning, plainly_numbers, replaced
from raysaas.use_case import ColumnType

TIME = pa.timestamp("us", "UTC")
ARROW: dict[ColumnType, pa.DataType] = {
    ColumnType.number: pa.float64(), ColumnType.integer: pa.int64(), ColumnType.boolean: pa.bool_(),
    ColumnType.category: pa.string(), ColumnType.text: pa.string(), ColumnType.time: TIME,
}  # fmt: skip
NULLS = pa.array(["", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "nat", "null", "none"])
_TRUE = pa.array(["true", "t", "yes", "y", "on", "1", "1.0"])
_FALSE = pa.array(["false", "f", "no", "n", "off", "0", "0.0"])
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_INFINITY = r"(?i)^[+-]?inf(inity)?$"
_WHOLE = r"^[+-]?[0-9]+(\.0*)?$"
_CLOCK = r"[T ][0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?( ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?))?"
_ISO = rf"^[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}({_CLOCK})?$"
_SLASHED = r"^[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}( .*)?$"
# 9 or 10 digits are seconds since 1970 (1973 to 2286), each three more a thousandth of that; 8 digits are a date.
_TO_TIME = """CASE
    WHEN regexp_full_match(x, '[0-9]{8}') THEN try_strptime(x, '%Y%m%d')
    WHEN regexp_full_match(x, '[0-9]{9,10}(\\.[0-9]+)?') THEN to_timestamp(TRY_CAST(x AS DOUBLE))::TIMESTAMP
    WHEN regexp_full_match(x, '[0-9]{12,13}') THEN make_timestamp(TRY_CAST(x AS BIGINT) * 1000)
    WHEN regexp_full_match(x, '[0-9]{15,16}') THEN make_timestamp(TRY_CAST(x AS BIGINT))
    WHEN regexp_full_match(x, '[0-9]{18,19}') THEN make_timestamp(TRY_CAST(x AS BIGINT) // 1000)
    WHEN regexp_matches(x, $iso) THEN TRY_CAST(TRY_CAST(x AS TIMESTAMPTZ) AS TIMESTAMP)
    WHEN regexp_matches(x, $slashed) THEN try_strptime(x, $formats)
END"""
_CLOCKS = ("", " %H:%M:%S", " %H:%M", " %I:%M:%S %p", " %I:%M %p", " %H:%M:%S.%f")


@dataclass(frozen=True, slots=True)
class Cast:
    """A column in its declared type; ``bad`` masks values that are none of it, ``infinite`` numbers without bound."""

    values: pa.Array
    bad: np.ndarray
    infinite: np.ndarray


def cast(
    column: pa.ChunkedArray, kind: ColumnType, *, day_first: bool | None = None, keep: tuple[str, ...] = ()
) -> Cast:
    """Cast ``column`` to ``kind``; blanks and null spellings become null unless ``keep`` lists them as values.

    ``day_first`` says how ``03/04/2025`` is read; None leaves such dates bad, as nothing tells.
    """
    array = flat(column)
    if pa.types.is_string(array.type):
        text = _cleaned(array, keep)
        return _finite(_parse(text, kind, day_first), text)
    return _finite(_convert(array, kind, day_first), as_text(array))


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One contiguous array with dictionaries decoded and every kind of text as ``string``."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type) or pa.types.is_null(array.type):
        array = array.cast(pa.string())
    return array


def as_text(array: pa.Array) -> pa.Array:
    """The values as strings, for messages and category columns; whole floats lose their ``.0``."""
    if pa.types.is_string(array.type):
        return array
    if pa.types.is_nested(array.type) or pa.types.is_binary(array.type):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    return array.cast(pa.string())


def _cleaned(array: pa.Array, keep: tuple[str, ...]) -> pa.Array:
    """Text without blanks around it, and null where it spells one."""
    unclean = may_need_cleaning(array)
    if unclean.sum() * 2 > len(array):
        return _clean(array, keep)
    return replaced(array, unclean, _clean(array.filter(pa.array(unclean)), keep)) if unclean.any() else array


def _clean(array: pa.Array, keep: tuple[str, ...]) -> pa.Array:
    text = pc.utf8_trim_whitespace(array)
    spelled = pc.is_in(pc.utf8_lower(text), value_set=NULLS)
    if keep:
        spelled = pc.and_not(spelled, pc.is_in(text, value_set=pa.array(keep, pa.string())))
    return pc.if_else(spelled, pa.scalar(None, pa.string()), text)


def _parse(text: pa.Array, kind: ColumnType, day_first: bool | None) -> pa.Array:
    if kind in (ColumnType.category, ColumnType.text):
        return text
    if kind is ColumnType.boolean:
        lower = pc.utf8_lower(text)
        no = pc.is_in(lower, value_set=_FALSE)
        return pc.if_else(pc.is_in(lower, value_set=_TRUE), True, pc.if_else(no, False, pa.scalar(None, pa.bool_())))
    try:
        return _fast(text, kind)
    except pa.ArrowInvalid:
        return _slow(text, kind, day_first) if kind is ColumnType.time else _mixed(text, kind)


def _mixed(text: pa.Array, kind: ColumnType) -> pa.Array:
    """Numbers of which some are not plain: the slow path for those alone, where they are few."""
    odd = ~plainly_numbers(text)
    if odd.sum() * 4 > len(text):
        return _slow(text, kind, None)
    try:
        plain = _fast(pc.if_else(pa.array(odd), pa.scalar(None, pa.string()), text), kind)
    except pa.ArrowInvalid:
        return _slow(text, kind, None)
    return replaced(plain, odd, _slow(text.filter(pa.array(odd)), kind, None))


def _fast(text: pa.Array, kind: ColumnType) -> pa.Array:
    if kind is ColumnType.time:
        return pc.assume_timezone(text.cast(pa.timestamp("us")), "UTC")
    if kind is ColumnType.integer and pc.any(pc.match_substring(text, "x", ignore_case=True)).as_py():
        # Arrow reads 0x10 as sixteen; a platform number is decimal.
        raise pa.ArrowInvalid("hexadecimal")
    return text.cast(ARROW[kind])


def _slow(text: pa.Array, kind: ColumnType, day_first: bool | None) -> pa.Array:
    if kind is ColumnType.time:
        return _times(text, day_first)
    fits = spelled_as_number(text) if kind is ColumnType.number else pc.match_substring_regex(text, _WHOLE)
    if kind is ColumnType.integer:
        text = pc.replace_substring_regex(text, r"\.0*$", "")
    target = "DOUBLE" if kind is ColumnType.number else "BIGINT"
    return query(f"SELECT TRY_CAST(x AS {target}) AS x FROM t", x=pc.if_else(fits, text, pa.scalar(None, pa.string())))


def spelled_as_number(text: pa.Array) -> pa.Array:
    """Whether each text is a decimal number or an infinity; null for null."""
    return pc.or_(pc.match_substring_regex(text, _NUMBER), pc.match_substring_regex(text, _INFINITY))


def _times(text: pa.Array, day_first: bool | None) -> pa.Array:
    days = {True: ("%d/%m/%Y",), False: ("%m/%d/%Y",), None: ()}[day_first]
    formats = [day + clock for day in days for clock in _CLOCKS] or ["ambiguous"]
    parameters = {"iso": _ISO, "slashed": _SLASHED, "formats": formats}
    return pc.assume_timezone(query(f"SELECT {_TO_TIME} AS x FROM t", parameters, x=text), "UTC")


@cache
def _database() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(config={"threads": 1})


def connection() -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with its own relations and times in UTC; opening a database each time would cost 20 ms."""
    cursor = _database().cursor()
    cursor.execute("SET TimeZone = 'UTC'")
    return cursor


def query(sql: str, parameters: Mapping[str, object] | None = None, **columns: pa.Array) -> pa.Array:
    """Run ``sql`` over table ``t`` of ``columns`` in DuckDB; return its column ``x``, rows in order, times in UTC."""
    with connection() as db:
        db.register("t", pa.table(columns))
        return flat(db.sql(sql, params=dict(parameters or {})).to_arrow_table()["x"])


def day_first(text: pa.Array) -> bool | None:
    """How the slashed dates of a column are to be read, from those that leave one way only; None when nothing tells."""
    slashed = text.filter(pc.match_substring_regex(text, _SLASHED))
    parts = pc.extract_regex(slashed, r"^(?P<a>[0-9]{1,2})/(?P<b>[0-9]{1,2})/")
    first, second = (pc.max(parts.field(i).cast(pa.int32())).as_py() or 0 for i in (0, 1))
    if first > 12 >= second:
        return True
    return False if second > 12 >= first else None


def _convert(array: pa.Array, kind: ColumnType, day: bool | None) -> pa.Array:
    """A typed column (Parquet) to ``kind``: null where the value has no counterpart."""
    source, target = array.type, ARROW[kind]
    if kind in (ColumnType.category, ColumnType.text):
        return as_text(array)
    if kind is ColumnType.time and pa.types.is_timestamp(source):
        plain = array.cast(pa.timestamp("us", source.tz), safe=False)
        return plain.cast(TIME) if source.tz else pc.assume_timezone(plain, "UTC")
    if kind is ColumnType.time and pa.types.is_date(source):
        return pc.assume_timezone(array.cast(pa.timestamp("us")), "UTC")
    if kind is ColumnType.number and (_numeric(source) or pa.types.is_boolean(source)):
        return array.cast(target, safe=False)
    if kind is ColumnType.integer and (pa.types.is_signed_integer(source) or pa.types.is_boolean(source)):
        return array.cast(target)
    return _parse(_cleaned(as_text(array), ()), kind, day)


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _finite(values: pa.Array, text: pa.Array) -> Cast:
    """Null NaNs, and mask what was written but is not there: ``bad`` or, for numbers, ``infinite``."""
    infinite = np.zeros(len(values), bool)
    missing = pc.is_null(text)
    if pa.types.is_floating(values.type):
        missing = pc.or_(missing, pc.fill_null(pc.is_nan(values), False))
        infinite = mask(pc.is_inf(values))
        values = pc.if_else(pc.is_finite(values), values, pa.scalar(None, values.type))
    return Cast(values, mask(pc.is_null(values)) & ~mask(missing) & ~infinite, infinite)


def mask(array: pa.Array) -> np.ndarray:
    """A boolean Arrow array as numpy, null as False."""
    return np.asarray(pc.fill_null(array, False).to_numpy(zero_copy_only=False))
