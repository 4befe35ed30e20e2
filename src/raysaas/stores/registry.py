"""Model versions in MLflow: one registered model per use case, alias ``champion``, lineage as tags.

A bundle is copied to ``storage.artifacts/<use_case>/<digest[:16]>`` before its version is registered, so a version
never points at bytes that are not there. This is the only module that imports MLflow.
"""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from raysaas.errors import NotFound
from raysaas.records import Family, ModelVersion, TrainingSet, restored
from raysaas.settings import Storage

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SADeprecationWarning

warnings.filterwarnings("ignore", category=SADeprecationWarning)  # MLflow switches all warnings of its own kind on
logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)


class Registry:
    """Registers bundles and remembers which version is champion."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @cached_property
    def client(self) -> MlflowClient:
        """The MLflow client; the first use of a fresh database takes some seconds for its migrations."""
        Path(self._storage.home).mkdir(parents=True, exist_ok=True)
        return MlflowClient(tracking_uri=self._storage.mlflow_url, registry_uri=self._storage.mlflow_url)

    def register(
        self,
        use_case: str,
        bundle: Path,
        *,
        digest: str,
        family: Family,
        metrics: Mapping[str, float],
        baseline: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> ModelVersion:
        """Copy the bundle to the artifact store and register it as the next version of ``use_case``."""
        uri = self._store(use_case, bundle, digest)
        run = self.client.create_run(self._experiment(use_case), run_name=f"{family}-{digest[:8]}")
        self.client.log_batch(
            run.info.run_id,
            metrics=[Metric(key, value, 0, 0) for key, value in metrics.items()],
            params=[Param("family", family), Param("digest", digest)],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )
        self.client.set_terminated(run.info.run_id)
        described = {"digest": digest, "family": str(family), "metrics": json.dumps(dict(metrics)), **tags}
        described["baseline"] = json.dumps(dict(baseline))
        try:
            self.client.create_registered_model(use_case)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        stored = self.client.create_model_version(use_case, uri, run_id=run.info.run_id, tags=described)
        return _version(stored)

    def _experiment(self, use_case: str) -> str:
        found = self.client.get_experiment_by_name(use_case)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(use_case, artifact_location=f"{self._storage.artifacts}/{use_case}"))

    def _store(self, use_case: str, bundle: Path, digest: str) -> str:
        target = Path(self._storage.artifacts or "") / use_case / digest[:16]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copytree(bundle, partial)
            partial.rename(target)
        return str(target)

    def judge(self, use_case: str, version: int, *, released: bool, reason: str) -> None:
        """Record the gate's verdict; a released version becomes the champion."""
        self.client.set_model_version_tag(use_case, str(version), "released", str(released).lower())
        self.client.set_model_version_tag(use_case, str(version), "reason", reason)
        if released:
            self.client.set_registered_model_alias(use_case, "champion", str(version))

    def version(self, use_case: str, version: int) -> ModelVersion:
        """One version, or NotFound."""
        return _version(self._stored(use_case, version))

    def _stored(self, use_case: str, version: int) -> StoredVersion:
        try:
            return self.client.get_model_version(use_case, str(version))
        except MlflowException as error:
            raise NotFound(f"There is no version {version} of {use_case!r}.") from error

    def training_set(self, use_case: str, version: int) -> TrainingSet:
        """The training set that a version learnt from; NotFound when there is no such version, or it does not say."""
        found = self._stored(use_case, version)
        if "training" not in found.tags:
            raise NotFound(f"Version {version} of {use_case!r} does not say from which training set it was made.")
        return restored(json.loads(found.tags["training"]))

    def versions(self, use_case: str) -> list[ModelVersion]:
        """Every version, newest first."""
        found = self.client.search_model_versions(f"name='{use_case}'", max_results=1000)
        return sorted((_version(v) for v in found), key=lambda v: -v.version)

    def champion(self, use_case: str) -> ModelVersion | None:
        """The version that the alias ``champion`` names, or None."""
        try:
            return _version(self.client.get_model_version_by_alias(use_case, "champion"))
        except MlflowException:
            return None

    def amend(self, use_case: str, version: int, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(use_case, str(version), key, value)

    def crown(self, use_case: str, version: int) -> None:
        """Point the alias ``champion`` at a version, after a manual promotion or a roll-back."""
        self.client.set_registered_model_alias(use_case, "champion", str(version))


def _version(stored: StoredVersion) -> ModelVersion:
    tags = stored.tags
    return ModelVersion(
        use_case=stored.name,
        version=int(stored.version),
        digest=tags["digest"],
        uri=stored.source,
        family=Family(tags["family"]),
        metrics=json.loads(tags["metrics"]),
        baseline=json.loads(tags["baseline"]),
        training_snapshot=int(tags.get("training_snapshot", 0)),
        released=tags.get("released") == "true",
        reason=tags.get("reason", ""),
        features=tags.get("feature_service", "").rpartition("@")[2],
        at=datetime.fromtimestamp(stored.creation_timestamp / 1000, UTC) if stored.creation_timestamp else None,
    )
