"""Where a result was made: source, versions, hardware. What cannot be found is None, never an error."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fedllm_bench import __version__

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "pandas",
    "sentence-transformers",
    "scikit-learn",
    "matplotlib",
    "openai",
)
GIT_TIMEOUT_SECONDS = 5.0


def environment(threads: int | None = None, gpus: Sequence[str] | None = None) -> dict[str, Any]:
    """JSON data about this process and the day (UTC). Without names of `gpus`, torch is asked if it is imported."""
    commit, dirty = git_state(Path(__file__).resolve().parents[2])
    return {
        "fedllm_bench": __version__,
        "commit": commit,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": {"name": cpu_name(), "count": os.cpu_count()},
        "memory_bytes": memory_bytes(),
        "gpus": list(gpus) if gpus is not None else gpu_names(),
        "threads": threads,
    }


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and dirty flag of the checkout whose top is `folder`; (None, None) where it is none.

    Untracked files that git does not ignore make it dirty: they may be source.
    """
    if not (folder / ".git").exists():  # an installed copy may lie inside somebody else's repository
        return None, None
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return commit or None, None if changes is None else bool(changes)


def _git(folder: Path, *arguments: str) -> str | None:
    # In a git hook GIT_DIR points to the caller's repository, and a plain `status` would lock the index.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_SECONDS,
            env=clean,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str | None:
    """The model of the processor, or at least its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (models[0] if models else platform.processor() or platform.machine()) or None


def memory_bytes() -> int | None:
    """Physical memory of the machine; a container may be given less."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def gpu_names() -> list[str]:
    """Names of the CUDA devices; [] when torch is not imported, because importing it takes seconds."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
