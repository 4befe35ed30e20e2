"""``edge.yaml``: what one site needs to know. Unknown keys and bad values are errors that name them."""

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from raysaas.errors import ConfigError

_REQUIRED = ("site", "use_case", "home", "bundle")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperNode:
    """How this site joins federated training; ``index`` tells sites apart, ``port`` is local."""

    superlink: str
    root_certificates: str
    private_key: str
    index: int = 0
    port: int = 9094


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """One site.

    ``bundle`` is a folder or a URL; ``cluster`` is the URL in front of the use case's endpoint. ``key_file`` holds
    the API key; ``digest`` pins the only bundle that is accepted; ``extra_fields`` is what happens to fields that the
    model does not know (``refuse`` or ``ignore``).
    """

    site: str
    use_case: str
    home: Path
    bundle: str
    cluster: str | None = None
    key_file: Path | None = None
    digest: str | None = None
    max_rows: int = 100_000
    poll_s: float = 30.0
    extra_fields: str = "refuse"
    supernode: SuperNode | None = None

    @property
    def key(self) -> str:
        """The API key; ConfigError when there is none."""
        if self.key_file is None or not self.key_file.is_file():
            raise ConfigError(f"key_file={str(self.key_file)!r} is no file: put the site's API key there.")
        return self.key_file.read_text().strip()


def read(path: Path) -> EdgeConfig:
    """Read and check ``path``; relative paths in it are taken from its folder. Raises ConfigError."""
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold keys and values, such as `site: store-17`.")
    missing = [key for key in _REQUIRED if not raw.get(key)]
    if missing:
        raise ConfigError(f"{path} lacks {', '.join(missing)}.")
    _known(raw, EdgeConfig, "")
    supernode = raw.get("supernode")
    if supernode is not None:
        _known(supernode, SuperNode, "supernode.")
        raw["supernode"] = _build(SuperNode, supernode)
    for key in ("home", "key_file"):
        if raw.get(key):
            raw[key] = (path.parent / str(raw[key])).resolve()
    config: EdgeConfig = _build(EdgeConfig, raw)
    _check(config)
    return config


def _build(kind: type[Any], raw: dict[str, Any]) -> Any:
    try:
        return kind(**raw)
    except TypeError as error:
        raise ConfigError(f"supernode: {error}") from error


def _known(raw: object, kind: type[Any], prefix: str) -> None:
    names = [each.name for each in fields(kind)]
    if not isinstance(raw, dict):
        raise ConfigError(f"{prefix[:-1]}={raw!r} is not allowed: expected keys and values.")
    for key in raw:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(names)}."
            raise ConfigError(f"{prefix}{key} is not a key of edge.yaml: {hint}")


def _check(config: EdgeConfig) -> None:
    if not isinstance(config.max_rows, int) or config.max_rows < 1:
        raise ConfigError(f"max_rows={config.max_rows!r} is not allowed: expected a positive whole number.")
    if not isinstance(config.poll_s, int | float) or config.poll_s <= 0:
        raise ConfigError(f"poll_s={config.poll_s!r} is not allowed: expected seconds above 0.")
    if config.extra_fields not in {"refuse", "ignore"}:
        raise ConfigError(f"extra_fields={config.extra_fields!r} is not allowed: expected refuse or ignore.")
