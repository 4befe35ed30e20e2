"""The MLflow registry on a real SQLite database."""

from pathlib import Path

import pytest

from raysaas.errors import NotFound
from raysaas.records import Family
from raysaas.settings import Storage
from raysaas.stores.registry import Registry


def test_versions_champions_and_reasons(home: Path, tmp_path: Path) -> None:
    registry = Registry(Storage(home=str(home)))
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "manifest.json").write_text("{}")
    facts = {
        "metrics": {"auc": 0.9},
        "baseline": {"auc": 0.8},
        "tags": {"training_snapshot": "7", "feature_service": "churn@f1"},
    }
    assert registry.champion("churn") is None
    first = registry.register("churn", bundle, digest="a" * 64, family=Family.trees, **facts)
    second = registry.register("churn", bundle, digest="b" * 64, family=Family.network, **facts)
    registry.judge("churn", first.version, released=True, reason="beats the baseline")
    registry.judge("churn", second.version, released=False, reason="does not beat the champion")
    assert [v.version for v in registry.versions("churn")] == [2, 1]
    champion = registry.champion("churn")
    assert champion is not None
    assert (champion.version, champion.reason, champion.training_snapshot) == (1, "beats the baseline", 7)
    assert (Path(champion.uri) / "manifest.json").read_text() == "{}"
    assert (champion.metrics, champion.features) == ({"auc": 0.9}, "f1")
    registry.crown("churn", 2)
    assert registry.champion("churn").version == 2
    with pytest.raises(NotFound, match="version 9"):
        registry.version("churn", 9)
