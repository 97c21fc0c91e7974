"""Build hook of hatchling: compiles the Scala sources and puts the jar into the wheel.

Runs for wheels and for editable installs. The package is not installed then, so its two modules that compile
are imported out of the source tree without running the package's own ``__init__``.
"""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    """Compiles if a source changed; hatchling finds this class by its base class."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it collects the files of a wheel (``version`` standard or editable)."""
        root = Path(self.root)
        jar = _ensure_jar(root)
        # Ignored by git, hence named here; and only this one, not what an older version left beside it.
        build_data["artifacts"].append(f"/{jar.relative_to(root).as_posix()}")


def _ensure_jar(root: Path) -> Path:
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "spark_helium"}
    package = types.ModuleType("spark_helium")
    package.__path__ = [str(root / "spark_helium")]
    sys.modules["spark_helium"] = package
    try:
        jar: Path = importlib.import_module("spark_helium.catalyst_rules.compiler").ensure_jar()
        return jar
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "spark_helium"]:
            del sys.modules[name]
        sys.modules.update(others)
