"""cluster.yaml passes Ray's own schema check, and every node gets the Serve flags and the pinned set."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def config() -> dict:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(config: dict) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)  # raises what the next test expects of a typo
    assert prepared["available_node_types"].keys() == config["available_node_types"].keys()


def test_ray_refuses_a_typo(config: dict) -> None:
    from jsonschema.exceptions import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config(config | {"max_wrkers": 3})


def test_every_node_installs_the_pins_and_starts_with_the_flags(config: dict) -> None:
    from raysaas.cluster import node_environment

    assert any("-c ~/raysaas/constraints.txt" in command for command in config["setup_commands"])
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert ". ~/raysaas.env && " in commands[-1]
    flags = node_environment()
    assert flags["RAY_SERVE_ENABLE_HA_PROXY"] == flags["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert (flags["RAY_AUTH_MODE"], flags["RAY_USAGE_STATS_ENABLED"]) == ("token", "0")


def test_it_has_a_head_cpu_workers_and_spot_gpu_workers(config: dict) -> None:
    kinds = config["available_node_types"]
    assert kinds[config["head_node_type"]]["resources"]["CPU"] == 0
    assert kinds["cpu_worker"]["min_workers"] >= 1
    spot = kinds["spot_gpu_worker"]
    assert spot["resources"]["GPU"] == 1
    assert spot["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
