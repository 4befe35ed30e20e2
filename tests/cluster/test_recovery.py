"""After a head was lost: what was deployed answers again, and a head that cannot work does not pass for one."""

import json
import shutil
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.cluster.test_serving import save

from raysaas import cluster, entry, recovery
from raysaas.records import Arm, Release
from raysaas.serving.deployment import Deployments
from raysaas.stores.ledger import Ledger

NAME = "recovered"


@pytest.fixture
def settings(platform, tmp_path):
    """A home of its own, on the session's head, with a release that nobody deployed there."""
    settings = entry.compose([f"home={tmp_path}", "use_case=telco_churn", "serve.port=0", "cluster.dashboard_port=0"])
    settings.use_case.name = NAME
    shutil.copy(Path(platform.home) / "head.json", tmp_path)
    uri, digest = save(tmp_path / "bundle", 1)
    champion = Arm(version=7, uri=uri, digest=digest)
    release = Release(use_case=NAME, sequence=1, champion=champion, actor="t", reason="t", at=datetime.now(UTC))
    Ledger(settings.storage.ledger_url).set_release(release)
    (tmp_path / "deployed").mkdir()
    (tmp_path / "deployed" / f"{NAME}.json").write_text(json.dumps(asdict(settings)))
    yield settings
    Deployments(
        platform.head.dashboard_url, home=settings.storage.home, cluster=settings.cluster, serve=platform.settings.serve
    ).remove(NAME)


def test_what_was_deployed_is_deployed_again_and_a_broken_one_keeps_nobody_down(settings, platform, tmp_path, capsys):
    broken = json.loads((tmp_path / "deployed" / f"{NAME}.json").read_text())
    broken["serve"]["nonsense"] = 1
    (tmp_path / "deployed" / "broken.json").write_text(json.dumps(broken))
    assert recovery.restore(settings) == {NAME: 7}
    assert httpx.get(f"{platform.head.url}/{NAME}/health", timeout=10).json()["champion"] == 7
    assert "broken is not up again: " in capsys.readouterr().err


def test_a_head_whose_raylet_is_gone_is_not_running(platform, settings):
    assert cluster.current(settings) == platform.head
    record = Path(settings.storage.home) / "head.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"id": "0" * 16}))  # no raylet has this mark
    assert cluster.current(settings) is None
    record.write_text(json.dumps(asdict(platform.head)))
