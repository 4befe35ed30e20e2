"""What edge.yaml may say."""

from collections.abc import Callable
from pathlib import Path

import pytest

from raysaas.errors import ConfigError
from raysaas_edge import config


def test_paths_are_taken_from_the_folder_of_the_file(tmp_path: Path, site: Callable[..., Path]) -> None:
    read = config.read(site("key_file: key", "supernode: {superlink: 'x:1', root_certificates: ca, private_key: k}"))
    assert read.home == tmp_path / "home"
    assert read.key_file == tmp_path / "key"
    assert read.supernode == config.SuperNode(superlink="x:1", root_certificates="ca", private_key="k")
    with pytest.raises(ConfigError, match="key_file"):
        _ = read.key


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("pol_s: 3", "did you mean poll_s"),
        ("poll_s: -1", "poll_s=-1"),
        ("max_rows: many", "max_rows='many'"),
        ("extra_fields: drop", "refuse or ignore"),
        ("supernode: {superlink: 'x:1'}", "root_certificates"),
        ("supernode: {superlnk: 'x:1'}", "did you mean supernode.superlink"),
        ("supernode: yes", "supernode"),
    ],
)
def test_a_wrong_config_names_the_key(site: Callable[..., Path], line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.read(site(line))


def test_what_is_required_is_listed(tmp_path: Path) -> None:
    (tmp_path / "edge.yaml").write_text("site: a\n")
    with pytest.raises(ConfigError, match="use_case, home, bundle"):
        config.read(tmp_path / "edge.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read(tmp_path / "none.yaml")
