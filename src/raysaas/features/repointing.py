"""Feast views pointed at the versions of their tables that stand for those whose rows were erased."""

import sys
from contextlib import redirect_stdout

import yaml

from raysaas.features.definitions import repo_folder
from raysaas.settings import Storage
from raysaas.stores.purge import resolve
from raysaas.stores.tables import Tables


def repoint(use_case: str, storage: Storage, tables: Tables) -> int:
    """Apply the views of ``use_case`` whose pinned snapshot was replaced again, over its copy; returns how many."""
    folder = repo_folder(use_case, storage)
    settings = folder / "feature_store.yaml"
    if not settings.exists():
        return 0
    from feast import FeatureStore
    from feast.repo_config import RepoConfig

    store = FeatureStore(config=RepoConfig(repo_path=folder, **yaml.safe_load(settings.read_text())))
    moved = []
    for view in store.list_feature_views():
        source = view.batch_source
        heir = resolve(tables, source.table, source.snapshot) if source.snapshot else 0
        if heir not in (0, source.snapshot):
            source.snapshot = heir
            moved.append(view)
    if moved:
        with redirect_stdout(sys.stderr):
            store.apply(moved, partial=True)
    return len(moved)
