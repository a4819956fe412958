"""The most memory that a program and all that it starts have at a time, by looking now and then."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_SECONDS = 0.2  # a look walks over all pages of a process, which it must not slow
SHOWN = 2000  # signs of what a failed program said


@dataclass(frozen=True)
class Ran:
    """`peak` in bytes: memory that processes share is counted once where the system tells (PSS), else in each."""

    output: str
    peak: int
    seconds: float


def watched(words: Sequence[str], env: Mapping[str, str] | None = None, limit_seconds: float | None = None) -> Ran:
    """Run a program to its end. Raises a :class:`RuntimeError` where it fails or takes longer than the limit."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        started, peak = time.monotonic(), 0
        with out.open("wb") as output, err.open("wb") as errors:
            process = subprocess.Popen(list(words), stdout=output, stderr=errors, env=env, start_new_session=True)
            try:
                while process.poll() is None:
                    peak = max(peak, memory_of_tree(process.pid))
                    if limit_seconds is not None and time.monotonic() - started > limit_seconds:
                        raise RuntimeError(f"{Path(words[0]).name} took longer than {limit_seconds:.0f} s")
                    time.sleep(INTERVAL_SECONDS)
            finally:
                end_tree(process)
        if process.returncode:
            said = err.read_text(encoding="utf-8", errors="replace").strip()
            why = said.rpartition("\n")[2]
            raise RuntimeError(f"{Path(words[0]).name} ended with {process.returncode}: {why}\n{said[-SHOWN:]}")
        return Ran(out.read_text(encoding="utf-8"), peak, time.monotonic() - started)


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a program and of what it started."""
    if process.poll() is not None:
        return
    try:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        tree = []
    for one in tree:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def memory_of_tree(pid: int) -> int:
    """Bytes of a process and its descendants now; 0 once it has ended."""
    try:
        top = psutil.Process(pid)
        return sum(_memory(process) for process in (top, *top.children(recursive=True)))
    except psutil.NoSuchProcess:
        return 0


def _memory(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except OSError:  # it has ended, or the system has no such file
        pass
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
