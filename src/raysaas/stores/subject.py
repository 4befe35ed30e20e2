"""Who is to be forgotten, and how to know what is theirs in each kind of record."""

import html
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import And, BooleanExpression, EqualTo

from raysaas.stores.survey import Rows
from raysaas.use_case import Source

GONE = "(forgotten)"
_SHORT = 6  # a shorter id inside a longer text may well be something else


@dataclass(frozen=True)
class Subject:
    """A tenant of a use case, or one of its entities."""

    use_case: str
    tenant: str
    entity: str | None = None

    @property
    def name(self) -> str:
        """What must not be found afterwards."""
        return self.tenant if self.entity is None else self.entity

    @cached_property
    def word(self) -> re.Pattern[str]:
        """The name where it stands for itself, as text, in JSON or in HTML."""
        quoted = json.dumps(self.name)[1:-1]
        forms = {self.name, quoted, json.dumps(quoted)[1:-1], html.escape(self.name)}
        return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, sorted(forms)))})(?![\w-])")

    @property
    def _keys(self) -> dict[str, str]:
        return {"tenant": self.tenant} | ({} if self.entity is None else {"entity": self.entity})

    def rows(self) -> Rows:
        """Rows with columns ``tenant`` and ``entity``."""
        return self._equal(self._keys)

    def logged(self) -> Rows:
        """Logged decisions of the use case."""
        return self._equal({"use_case": self.use_case, **self._keys})

    def answers(self, decisions: Collection[str], named: Collection[str] = ()) -> Rows:
        """Logged outcomes and shadow scores of those ``decisions``, or of those that the tenant ``named`` so by key,
        and all of a whole tenant."""
        ids, keys = pa.array(sorted(decisions), pa.string()), pa.array(sorted(named), pa.string())

        def match(table: pa.Table) -> pa.Array:
            mine = pc.is_in(table["decision_id"], value_set=ids)
            if "key" in table.column_names:
                by_key = pc.and_(pc.is_null(table["decision_id"]), pc.is_in(table["key"], value_set=keys))
                mine = pc.or_(mine, pc.and_(by_key, pc.equal(table["tenant"], self.tenant)))
            whole = pc.equal(table["tenant"], self.tenant) if self.entity is None else mine
            return pc.and_(pc.equal(table["use_case"], self.use_case), pc.or_(mine, whole))

        return Rows(("use_case", "tenant", "decision_id", "key"), match, EqualTo("use_case", self.use_case), self.clean)

    def refused(self, source: Source) -> Rows:
        """Rows of a quarantine table, by the row as it was read."""

        def match(table: pa.Table) -> pa.Array:
            rows = table.select([name for name in ("row", "row_id") if name in table.column_names]).to_pylist()
            return pa.array([self.wrote(source, row["row"] or "", row.get("row_id")) for row in rows], pa.bool_())

        return Rows(("row", "row_id"), match, clean=self.clean)

    def wrote(self, source: Source, text: str, row_id: str | None = None) -> bool:
        """Whether a row of ``source``, as JSON text, is the subject's; where its columns do not say, by its words."""
        try:
            row = json.loads(text)
        except ValueError:
            row = text
        tenant = self._cell(source, source.tenant, row, self.tenant) if source.tenant else self.tenant == "default"
        if self.entity is None or not tenant:
            return tenant
        return self._cell(source, source.entity, row, self.entity) if source.entity else row_id == self.entity

    def _cell(self, source: Source, key: str, row: Any, value: str) -> bool:
        name = (source.columns[key].column if key in source.columns else None) or key
        if isinstance(row, dict) and (name in row or key in row):
            return str(row.get(name, row.get(key))).strip() == value
        return bool(
            re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", row if isinstance(row, str) else json.dumps(row))
        )

    def clean(self, text: str) -> str:
        """``text`` without the name: in JSON every string that is or, unless it is short, holds it."""
        try:
            data = json.loads(text)
        except ValueError:
            return text if len(self.name) < _SHORT else self.word.sub(GONE, text)
        if not isinstance(data, dict | list):
            return text
        cleaned = self._cleaned(data)
        return text if cleaned == data else json.dumps(cleaned)

    def _cleaned(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            return {self._cleaned(key): self._cleaned(value) for key, value in data.items()}
        if isinstance(data, list):
            return [self._cleaned(value) for value in data]
        return (GONE if data == self.name else self.clean(data)) if isinstance(data, str) else data

    def _equal(self, keys: Mapping[str, str]) -> Rows:
        def match(table: pa.Table) -> pa.Array:
            return reduce(pc.and_, (pc.equal(table[key], value) for key, value in keys.items()))

        parts: list[BooleanExpression] = [EqualTo(key, value) for key, value in keys.items()]
        return Rows(tuple(keys), match, reduce(And, parts), self.clean)
