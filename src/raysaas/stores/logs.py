"""The log tables: what of a journal's records goes to Iceberg ``log.<kind>``, and under which types.

Columns are only ever added, and may be null: segments and tables of an earlier release stay readable.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

TIME = pa.timestamp("us", "UTC")
SCHEMAS: Mapping[str, pa.Schema] = {
    "decisions": pa.schema(
        [
            ("id", pa.string()),
            ("use_case", pa.string()),
            ("tenant", pa.string()),
            ("entity", pa.string()),
            ("inputs", pa.string()),
            ("version", pa.int64()),
            ("arm", pa.string()),
            ("score", pa.float64()),
            ("label", pa.string()),
            ("time", TIME),
            # Of a decision by entity: event time of each online row, by generation, and what the request gave itself.
            ("features_at", pa.string()),
            ("given", pa.string()),
            # The caller's own name of the decision, unique or not, within a tenant.
            ("key", pa.string()),
            # What computed the score, such as torch/cuda; null for the CPU, which gives the same bits again.
            ("backend", pa.string()),
        ]
    ),
    "outcomes": pa.schema(
        [
            # Of which decision: by its id, or by the key that the caller gave it.
            ("decision_id", pa.string()),
            ("use_case", pa.string()),
            ("tenant", pa.string()),
            ("label", pa.string()),
            ("observed_at", TIME),
            ("key", pa.string()),
            ("known_at", TIME),
        ]
    ),
    "shadows": pa.schema(
        [
            ("decision_id", pa.string()),
            ("use_case", pa.string()),
            ("tenant", pa.string()),
            ("version", pa.int64()),
            ("score", pa.float64()),
            ("label", pa.string()),
            ("time", TIME),
        ]
    ),
}
_JSON = {"inputs", "features_at", "given"}


def as_table(records: Sequence[Mapping[str, Any]], kind: str) -> pa.Table:
    """Journal records of a kind as rows of its log table; what a record does not have is null."""
    schema = SCHEMAS[kind]
    columns = {field.name: [_cell(record.get(field.name), field.name) for record in records] for field in schema}
    return pa.table({name: pa.array(values).cast(schema.field(name).type) for name, values in columns.items()})


def completed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema``, null where an earlier release did not write them."""
    num = table.num_rows
    columns = [table[f.name].cast(f.type) if f.name in table.column_names else pa.nulls(num, f.type) for f in schema]
    return pa.table(columns, schema=schema)


def _cell(value: Any, name: str) -> Any:
    return value if value is None or name not in _JSON else orjson.dumps(value).decode()
