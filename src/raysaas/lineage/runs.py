"""What jobs do, told as OpenLineage run events while they run."""

import logging
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from raysaas.errors import RaysaasError
from raysaas.lineage.graph import Node
from raysaas.lineage.openlineage import NAMESPACE, event
from raysaas.records import Release, TrainingSet
from raysaas.settings import Settings

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from raysaas.stores.tables import Tables

P = ParamSpec("P")
T = TypeVar("T")

_within: ContextVar[tuple[str, str] | None] = ContextVar("run", default=None)
log = logging.getLogger("raysaas")


def emits(job: str) -> Callable[[Callable[Concatenate[Settings, P], T]], Callable[Concatenate[Settings, P], T]]:
    """Make a verb of the lifecycle send START, then COMPLETE, FAIL or ABORT, with the datasets that its result names.

    A verb called by another names that as its parent run. An event that cannot be sent is logged and stops nothing.
    """

    def decorate(verb: Callable[Concatenate[Settings, P], T]) -> Callable[Concatenate[Settings, P], T]:
        def run(settings: Settings, /, *args: P.args, **kwargs: P.kwargs) -> T:
            told = _Run(settings, job, _within.get())
            within = _within.set((told.id, told.name))
            told.tell("START")
            try:
                result = verb(settings, *args, **kwargs)
            except BaseException as error:
                told.tell("FAIL" if isinstance(error, Exception) else "ABORT", error=error)
                raise
            finally:
                _within.reset(within)
            told.tell("COMPLETE", result)
            return result

        update_wrapper(run, verb)
        return run

    return decorate


class _Run:
    """One run of a job."""

    def __init__(self, settings: Settings, job: str, parent: tuple[str, str] | None) -> None:
        self.settings, self.job, self.parent = settings, job, parent
        self.id, self.name = str(uuid.uuid4()), f"{settings.use_case.name}.{job}"

    def tell(self, state: str, result: Any = None, error: BaseException | None = None) -> None:
        """Send one event of this run."""
        try:
            from raysaas.stores.emitter import emit
            from raysaas.stores.tables import Tables

            tables = Tables(self.settings.storage)
            use = _USES.get(self.job) if result is not None else None
            inputs, outputs = use(self.settings.use_case.name, tables, result) if use else ([], [])
            told = event(tables, self.name, self.id, datetime.now(UTC), inputs, outputs, state)
            _add_facets(told, self.parent, error)
            emit(self.settings.storage.home, told)
        except Exception as problem:  # noqa: BLE001  whatever a transport raises, the job's work is done
            log.warning("The lineage event of %s was not sent: %s: %s", self.name, type(problem).__name__, problem)


Used = tuple[list[Node], list[Node]]


def _ingested(_: str, __: "Tables", result: dict[str, Any]) -> Used:
    new = [source for source in result["sources"].values() if source["num_read"]]
    files = [Node(uri, "file", None, {"uri": uri, "sha256": None}) for source in new for uri in source["files"]]
    return files, [_table(source["table"], source["snapshot_id"], source["num_rows"]) for source in new]


def _assembled(_: str, __: "Tables", result: tuple[TrainingSet, Any]) -> Used:
    made = result[0]
    read = [_table(table, snapshot) for table, snapshot in made.snapshots.items()]
    return read, [_table(made.table, made.snapshot_id, made.num_rows)]


def _trained(use_case: str, _: "Tables", result: dict[str, Any]) -> Used:
    learnt = sorted({version["training_snapshot"] for version in result["versions"]})
    made = [_model(use_case, version["version"]) for version in result["versions"]]
    return [_table(f"training.{use_case}", snapshot) for snapshot in learnt], made


def _released(use_case: str, _: "Tables", release: Release) -> Used:
    made = Node(f"{use_case}#{release.sequence}", "release", None, {"sequence": release.sequence})
    return [_model(use_case, arm.version) for arm in release.arms()], [made]


def _shipped(_: str, tables: "Tables", result: dict[str, int]) -> Used:
    logs = [(f"log.{kind}", tables.current(f"log.{kind}")) for kind, count in result.items() if count]
    return [], [_table(table, snapshot) for table, snapshot in logs if snapshot]


_USES: dict[str, Callable[[str, "Tables", Any], Used]] = {
    "ingest": _ingested, "training_set": _assembled, "train": _trained, "sweep": _trained, "federate": _trained,
    "deploy": _released, "rollback": _released, "ship": _shipped,
}  # fmt: skip


def _table(table: str, snapshot: int, rows: int | None = None) -> Node:
    return Node(f"{table}@{snapshot}", "snapshot", None, {"table": table, "snapshot_id": snapshot, "rows": rows})


def _model(use_case: str, version: int) -> Node:
    return Node(f"{use_case}:v{version}", "model", None, {"version": version})


def _add_facets(event: "RunEvent", parent: tuple[str, str] | None, error: BaseException | None) -> None:
    from openlineage.client.facet_v2 import error_message_run, parent_run

    facets: dict[str, Any] = {}
    if parent:
        job = parent_run.Job(namespace=NAMESPACE, name=parent[1])
        facets["parent"] = parent_run.ParentRunFacet(run=parent_run.Run(runId=parent[0]), job=job)
    if error:
        # The message of an unexpected error may hold values of rows.
        said = str(error) if isinstance(error, RaysaasError) else type(error).__name__
        facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message=said, programmingLanguage="Python")
    event.run.facets = facets
