"""What one Serve application needs to know; travels as plain JSON through Serve's declarative API."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raysaas.records import Task
from raysaas.settings import ExtraFields, Serve, Storage

DEPLOYMENT = "Endpoint"  # the one Serve deployment of each application


@dataclass(frozen=True, slots=True, kw_only=True)
class AppSpec:
    """One use case as served. ``views`` are the online views (``stores.online.online_views``) of its features."""

    use_case: str
    task: Task
    storage: Storage
    serve: Serve
    title: str = ""
    views: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form, the ``args`` of the application in Serve's declarative config."""
        return asdict(self) | {"views": list(self.views)}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "AppSpec":
        """Inverse of :meth:`to_dict`; unknown keys are ignored, so a newer config can be rolled back."""
        serve = dict(body["serve"])
        serve["extra_fields"] = ExtraFields(serve.get("extra_fields", ExtraFields.refuse))
        return cls(
            use_case=body["use_case"],
            task=Task(body["task"]),
            title=body.get("title", ""),
            views=tuple(body.get("views", ())),
            storage=Storage(**body["storage"]),
            serve=Serve(**serve),
        )
