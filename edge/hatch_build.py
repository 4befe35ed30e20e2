"""Puts what cluster and edge share into the wheel; an editable install gets it from the cluster's own checkout."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHARED = ("__init__.py", "errors.py", "records.py", "models")


class SharedModules(BuildHookInterface):
    """Hatchling's ``force-include`` would copy the modules in editable mode too, and shadow the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            source = Path(self.root).parent / "src" / "raysaas"
            build_data["force_include"] |= {str(source / name): f"raysaas/{name}" for name in SHARED}
