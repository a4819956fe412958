"""What a base is called in results and tables: one that was unpacked from fewer bits says so."""

from __future__ import annotations

from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.config.bases.declared import base_of

ABOUT = "base.json"  # in the folder of a converted base; among what names a run, since it is part of the base's hash
UNPACKED = "GGUF weights unpacked"


def label(name: str) -> str:
    """ "SmolLM2-135M-Instruct (4-bit weights unpacked)" of the `model.name` of a config.

    A folder that a base was converted into is called as the base is; another name stays as it is.
    """
    if (base := base_of(name)) is not None:
        return base.label
    if is_gguf(name):
        return f"{Path(name).stem} ({UNPACKED})"
    return _label_in(files.at_home(name)) or name


def is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _label_in(folder: Path) -> str | None:
    try:
        about = files.read_json(folder / ABOUT)
    except (OSError, ValueError, RecursionError):  # no folder, no such file, or somebody else's
        return None
    found = about.get("label") if isinstance(about, dict) else None
    return found if isinstance(found, str) and found.isprintable() and len(found) <= 200 else None
