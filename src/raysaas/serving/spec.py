"""What one Serve application needs to know; travels as plain JSON through Serve's declarative API."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from raysaas.records import Task
from raysaas.settings import ExtraFields, OnContract, Serve, Storage
from raysaas.use_case import Column, ColumnType, Source

DEPLOYMENT = "Endpoint"  # the one Serve deployment of each application


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """A source that takes events. ``columns`` are the fields of an event, under the names in which they are sent.

    ``tenant`` is the field that says whose the row is; ``others`` are fields that only derived columns look at.
    """

    columns: Mapping[str, Column]
    tenant: str | None = None
    others: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: Source) -> "EventSource":
        """What the door needs to know of ``source``."""
        names = {key: column.column or key for key, column in source.columns.items()}
        words = {word for expression in source.derive.values() for word in re.findall(r"[A-Za-z_]\w*", expression)}
        columns = {names[key]: column for key, column in source.columns.items()}
        return cls(columns=columns, tenant=names.get(source.tenant or ""), others=tuple(sorted(words)))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self) | {"others": list(self.others)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "EventSource":
        """Inverse of :meth:`to_dict`; unknown keys are ignored."""
        columns = {name: _column(column) for name, column in body["columns"].items()}
        return cls(columns=columns, tenant=body.get("tenant"), others=tuple(body.get("others", ())))


def _column(body: Mapping[str, Any]) -> Column:
    known = {one.name: body[one.name] for one in fields(Column) if one.name in body}
    return Column(**{**known, "type": ColumnType(body["type"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """One use case as served. ``views`` are the online views (``stores.online.online_views``) of its features,
    ``ttls_s`` after how many seconds a row of them is absent, ``events`` the sources that take events, ``contract``
    what features that are columns must hold."""

    use_case: str
    task: Task
    storage: Storage
    serve: Serve
    title: str = ""
    views: tuple[str, ...] = ()
    ttls_s: Mapping[str, float] = field(default_factory=dict)
    events: Mapping[str, EventSource] = field(default_factory=dict)
    contract: Mapping[str, Column] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the ``args`` of the application in Serve's declarative config."""
        events = {name: source.to_dict() for name, source in self.events.items()}
        return asdict(self) | {"views": list(self.views), "events": events}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "AppSpec":
        """Inverse of :meth:`to_dict`; unknown keys are ignored, so a newer config can be rolled back."""
        serve = dict(body["serve"])
        serve["extra_fields"] = ExtraFields(serve.get("extra_fields", ExtraFields.refuse))
        serve["contract"] = OnContract(serve.get("contract", OnContract.refuse))
        return cls(
            use_case=body["use_case"],
            task=Task(body["task"]),
            title=body.get("title", ""),
            views=tuple(body.get("views", ())),
            ttls_s=dict(body.get("ttls_s", {})),
            events={name: EventSource.from_dict(source) for name, source in body.get("events", {}).items()},
            contract={name: _column(column) for name, column in body.get("contract", {}).items()},
            storage=Storage(**body["storage"]),
            serve=Serve(**serve),
        )
