"""Features made of other values of their view: lags of columns, ratios and differences of features."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysaas.errors import InputError
from raysaas.features.raw import sql
from raysaas.view import CONTEXT, View, lag_name


def lagged(rows: pa.Table, columns: Sequence[str], lags: Mapping[str, Sequence[int]]) -> pa.Table:
    """The context of ``rows``, ``columns`` as they are, and the values of columns so many rows of the entity earlier.

    Rows of an entity are ordered by event time, then ``known_at``, then row id. A value that became known only after
    the row happened is null: the row could not have seen it. ``rows`` hold ``row_id``, ``tenant``, ``entity``,
    ``event_time``, ``known_at``; they come back in their order.
    """
    asked = [(column, back) for column, all_back in lags.items() for back in all_back]
    selected = [
        f'CASE WHEN lag(known_at, {back}) OVER w <= event_time THEN lag("{column}", {back}) OVER w END AS "{number}"'
        for number, (column, back) in enumerate(asked)
    ]
    used = dict.fromkeys([*CONTEXT, *lags])
    found = sql(
        f"SELECT {', '.join(selected)} FROM rows "
        "WINDOW w AS (PARTITION BY tenant, entity ORDER BY event_time, known_at, row_id, __at) ORDER BY __at",
        rows=rows.select(used).append_column("__at", pa.array(np.arange(rows.num_rows))),
    )
    table = rows.select([*CONTEXT, *columns])
    for number, (column, back) in enumerate(asked):
        kind = rows.schema.field(column).type
        table = table.append_column(lag_name(column, back), found[str(number)].cast(kind))
    return table


def made(rows: pa.Table, view: View, name: str) -> pa.Table:
    """``rows`` plus the ratios and differences of ``view``: float64, null where there is no finite value.

    Raises InputError when one of the two features is not a number.
    """
    for kind, parts, compute in (("ratios", view.ratios, pc.divide), ("differences", view.differences, pc.subtract)):
        for feature, (left, right) in parts.items():
            key = f"use_case.views.{name}.{kind}.{feature}"
            rows = rows.append_column(feature, _finite(compute, _number(rows, left, key), _number(rows, right, key)))
    return rows


def _finite(compute: Callable[..., pa.ChunkedArray], left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    values = compute(left, right)
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _number(rows: pa.Table, feature: str, key: str) -> pa.ChunkedArray:
    kind = rows.schema.field(feature).type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise InputError(f"{key} is made of {feature!r}, which holds {kind}: expected numbers.")
    return pc.cast(rows[feature], pa.float64(), safe=False)
