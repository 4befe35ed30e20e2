"""Puts the defaults of conf/ into the wheel; an editable install reads them from the checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PackagedConf(BuildHookInterface):
    """Hatchling's ``force-include`` would copy the files in editable mode too, and they would grow stale."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds a wheel."""
        if version == "standard":
            build_data["force_include"] |= {str(Path(self.root) / "conf"): "raysaas/conf"}
