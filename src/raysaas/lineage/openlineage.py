"""Records as OpenLineage events: what a job read and wrote, as datasets with facets, in the library's own classes.

Names follow the OpenLineage naming spec: an Iceberg table is its location, with its catalog name as a symlink and the
snapshot id as its version; models, releases and decisions are datasets of the namespace ``raysaas``. The library takes
a tenth of a second to import, so this module does it when the first event is made.
"""

import uuid
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from raysaas.lineage.graph import Graph, Node

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent

    from raysaas.stores.tables import Tables

Nodes = Sequence[Node]

NAMESPACE, PRODUCER = "raysaas", "urn:raysaas"
_JOBS = {"snapshot": "ingest", "training": "training_set", "model": "train", "release": "deploy", "decision": "serve",
         "decisions": "serve", "outcome": "feedback"}  # fmt: skip


def of_graph(tables: "Tables", use_case: str, graph: Graph, names: Iterable[str]) -> list[dict[str, Any]]:
    """One COMPLETE event per record that was made from others, oldest first; equal records give equal run ids."""
    from openlineage.client.serde import Serde

    events = []
    timed = [(node.at, node) for node in (graph.nodes[name] for name in names) if node.at]
    for at, node in sorted(timed, key=lambda pair: pair[0]):
        inputs = [graph.nodes[name] for name in graph.inputs.get(node.id, []) if name in graph.nodes]
        if inputs:
            job = "ship" if node.id.startswith("log.") else _JOBS[node.kind]
            run_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{NAMESPACE}:{node.id}"))
            told = event(tables, f"{use_case}.{job}", run_id, at, inputs, [node], "COMPLETE")
            events.append(Serde.to_dict(told))
    return events


def event(
    tables: "Tables", job: str, run_id: str, at: datetime, inputs: Nodes, outputs: Nodes, state: str
) -> "RunEvent":
    """A run event of ``job`` (``USE_CASE.VERB``) in ``state``, with its records as datasets."""
    from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
    from openlineage.client.facet_v2 import job_type_job, output_statistics_output_dataset

    kind = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="RAYSAAS", jobType="JOB")
    read = [InputDataset(*_place(tables, node), facets=_facets(tables, node)) for node in inputs]
    written = [OutputDataset(*_place(tables, node), facets=_facets(tables, node)) for node in outputs]
    for node, dataset in zip(outputs, written, strict=True):
        rows = node.facts.get("rows") or node.facts.get("num_rows")
        if rows and dataset.outputFacets is not None:
            statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=rows)
            dataset.outputFacets["outputStatistics"] = statistics
    return RunEvent(
        eventTime=at.isoformat(), producer=PRODUCER, eventType=RunState(state), run=Run(runId=run_id, facets={}),
        job=Job(namespace=NAMESPACE, name=job, facets={"jobType": kind}), inputs=read, outputs=written,
    )  # fmt: skip


def _place(tables: "Tables", node: Node) -> tuple[str, str]:
    """Namespace and name of a record's dataset."""
    if "table" in node.facts:
        return _split(tables.location(node.facts["table"]))
    if node.kind == "file":
        return _split(node.facts["uri"] or node.id)
    use_case = node.id.removeprefix("decisions:").partition(":")[0].partition("#")[0]
    kinds = {"model": f"models/{use_case}", "release": f"releases/{use_case}"}
    return NAMESPACE, kinds.get(node.kind, node.id)


def _split(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    if not parts.scheme or parts.scheme == "file":
        return "file", parts.path or uri
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path.lstrip("/") or "/"


def _facets(tables: "Tables", node: Node) -> dict[str, Any]:
    from openlineage.client.facet_v2 import (
        dataset_type_dataset,
        dataset_version_dataset,
        schema_dataset,
        symlinks_dataset,
    )

    facts = node.facts
    kind = {"snapshot": "TABLE", "training": "TABLE"}.get(node.kind, node.kind.upper())
    facets: dict[str, Any] = {"datasetType": dataset_type_dataset.DatasetTypeDatasetFacet(datasetType=kind)}
    version = next((facts[key] for key in ("snapshot_id", "sha256", "version", "sequence") if facts.get(key)), None)
    if version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=str(version))
    if "table" in facts:
        name = symlinks_dataset.Identifier(namespace=NAMESPACE, name=facts["table"], type="TABLE")
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(identifiers=[name])
        schema = tables.schema(facts["table"], facts["snapshot_id"])
        columns = [schema_dataset.SchemaDatasetFacetFields(name=f.name, type=str(f.type)) for f in schema]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=columns)
    return facets
