"""How a fitted model becomes a version: training set -> candidates -> registry -> gate, with what it was made from."""

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysaas.records import ModelVersion, TrainingSet, plain
from raysaas.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

    from raysaas.training.evaluate import Fitted
    from raysaas.training.judging import Judge

log = logging.getLogger("raysaas")

Fit = Callable[["pa.Table", Path, "Judge"], tuple[Sequence["Fitted"], dict[str, Any]]]


def admit(settings: Settings, training: TrainingSet, table: "pa.Table", fit: Fit) -> dict[str, Any]:
    """Fit candidates on a training set, register each and let the gate judge it.

    The result names every version, the champion and the warnings; ``fit`` may add to it.
    """
    from raysaas.stores.registry import Registry
    from raysaas.training.judging import Judge

    judge = Judge(settings, table)
    with _scratch(settings) as out:
        candidates, more = fit(table, out, judge)
        versions = [_admit(settings, candidate, training, judge) for candidate in candidates]
    champion = Registry(settings.storage).champion(settings.use_case.name)
    return {
        "use_case": settings.use_case.name,
        "versions": [plain(version) for version in versions],
        "champion": plain(champion) if champion else None,
        "warnings": [*training.warnings, *judge.warnings],
        **more,
    }


@contextmanager
def _scratch(settings: Settings) -> Iterator[Path]:
    home = Path(settings.storage.home) / "scratch"
    home.mkdir(parents=True, exist_ok=True)
    prefix = f"{settings.use_case.name}-"
    with tempfile.TemporaryDirectory(dir=home, prefix=prefix, ignore_cleanup_errors=True) as path:
        yield Path(path)


def _admit(settings: Settings, candidate: "Fitted", training: TrainingSet, judge: "Judge") -> ModelVersion:
    """Register a candidate, record the gate's verdict, and tag the snapshots behind it."""
    from raysaas.stores.registry import Registry
    from raysaas.stores.tables import Tables

    registry, name = Registry(settings.storage), settings.use_case.name
    champion = registry.champion(name)
    verdict = judge.verdict(candidate, Path(champion.uri) if champion else None)
    version = registry.register(
        name, candidate.path, digest=candidate.digest, family=candidate.family, metrics=candidate.metrics,
        baseline=candidate.baseline, tags=_lineage(training),
    )  # fmt: skip
    registry.judge(name, version.version, released=verdict.released, reason=verdict.reason)
    tables = Tables(settings.storage)
    for table, snapshot in {**training.snapshots, training.table: training.snapshot_id}.items():
        tables.tag(table, snapshot, f"{name}-v{version.version}")
    log.info("%s v%d (%s): %s", name, version.version, version.family, verdict.reason)
    return registry.version(name, version.version)


def _lineage(training: TrainingSet) -> dict[str, str]:
    return {
        "training_table": training.table,
        "training_snapshot": str(training.snapshot_id),
        "training_content": training.content_hash,
        "source_snapshots": json.dumps(dict(training.snapshots)),
        "feature_service": f"{training.feature_service}@{training.feature_service_hash}",
        "training": json.dumps(plain(replace(training, warnings=()))),
    }
