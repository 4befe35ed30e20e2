"""Shared set-up: a private home per test, settings composed from the real conf/, one real Ray for tests/cluster."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pytest

os.environ.update(
    RAY_USAGE_STATS_ENABLED="0", DO_NOT_TRACK="1", FLWR_TELEMETRY_ENABLED="0", MLFLOW_DISABLE_TELEMETRY="true",
    RAY_AUTH_MODE="token", OMP_NUM_THREADS="1", TQDM_DISABLE="1",
)  # fmt: skip

sys.path.insert(0, str(Path(__file__).parent))

import services

from raysaas import cluster, entry
from raysaas.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DATA_DIR = os.environ.get("RAYSAAS_DATA_DIR") or str(ROOT.parent / "shared" / "data")
NEEDS_RAY = ("cluster", "e2e")
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in NEEDS_RAY:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(autouse=True)
def _no_ray_outside_cluster_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """A unit test that starts Ray is in the wrong folder; one that runs after cluster tests finds it started."""
    before = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    yield
    after = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if request.path.parent.name not in NEEDS_RAY:
        assert before or not after, "this test started Ray: move it to tests/cluster"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A private installation folder."""
    return tmp_path / "var"


@pytest.fixture
def make_settings(home: Path) -> Callable[..., Settings]:
    """Compose real settings with overrides, in a private home: ``make_settings("use_case=telco_churn")``."""
    return lambda *overrides: entry.compose([f"home={home}", *overrides])


@pytest.fixture(scope="session")
def data_dir() -> str:
    """The folder of real data sets, or a skip that says so."""
    if not Path(DATA_DIR).is_dir():
        pytest.skip(f"the real data sets are not here ({DATA_DIR}); set RAYSAAS_DATA_DIR")
    return str(Path(DATA_DIR).resolve())


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """One real head for the whole session, as ``raysaas up`` starts it, on free ports."""
    home = tmp_path_factory.mktemp("platform")
    overrides = [f"home={home}", "cluster.port=0", "cluster.dashboard_port=0", "serve.port=0"]
    settings = entry.compose(overrides)
    head = cluster.up(settings)
    try:
        yield SimpleNamespace(home=home, head=head, overrides=overrides, settings=settings)
    finally:
        cluster.down(settings)


@pytest.fixture(scope="session")
def ray_cluster(platform: SimpleNamespace) -> Iterator[SimpleNamespace]:
    """This process connected to the session's head."""
    import ray

    cluster.connect(platform.settings, {"use_case": "tests", "job": "tests"})
    yield platform
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy's URL of a real PostgreSQL server of this session."""
    with services.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """URL of a real Redis server of this session."""
    with services.redis() as url:
        yield url


@pytest.fixture
def raysaas(tmp_path: Path, platform: SimpleNamespace) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the ``raysaas`` command as a user would, in a folder of its own, against the session's head."""

    def run(*arguments: str, cwd: Path | None = None, timeout: int = 300) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "raysaas"), *arguments]
        env = {**os.environ, "RAYSAAS_HOME": str(platform.home)}
        return subprocess.run(
            command, cwd=cwd or tmp_path, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
