"""The files of examples/, run in this process."""

from __future__ import annotations

import runpy
from typing import Any

from checkout import ROOT

EXAMPLES = ROOT / "examples"


def example(name: str) -> dict[str, Any]:
    """What examples/`name`.py defines; it is not run as a script."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))
