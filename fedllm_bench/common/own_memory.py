"""How much memory this process has and has had."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
KIB = 1024


def resident_bytes(status: Path = STATUS) -> int:
    """Bytes of this process in memory now, mapped files included; 0 where the system does not say."""
    return _field("VmRSS", status) or 0


def peak_bytes(status: Path = STATUS) -> int:
    """The most bytes that this process has had in memory so far, mapped files included.

    Not `ru_maxrss` where Linux says more: a process that was started from a large one (a notebook, a test) begins with
    the peak of that one there, since the child of a `vfork` has its parent's memory until it becomes another program.
    """
    peak = _field("VmHWM", status)
    return peak if peak is not None else _by_getrusage()


def _field(name: str, status: Path) -> int | None:
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * KIB for line in lines if line.startswith(f"{name}:")), None)


def _by_getrusage() -> int:
    unit = 1 if sys.platform == "darwin" else KIB  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
