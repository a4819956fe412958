"""Processes of `python -m fedllm_bench.worker`, which end with the one that started them, however that ends.

Each holds the reading end of a pipe to its parent; see `fedllm_bench/worker.py`.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedllm_bench.common.cores import pin
from fedllm_bench.common.process import ALLOCATOR

log = logging.getLogger(__name__)
SECONDS_TO_STOP = 60.0  # the clients in training end first; a killed run loses no more than one round
BASELINE_OF = "baseline-of"  # the word of a worker that runs the baseline of a run: `pipeline/beside.py`
Child = subprocess.Popen[bytes]


def start(
    words: Sequence[str],
    path: Path,
    *,
    threads: int,
    cores: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Child:
    """Start a worker with these words and so many threads, on these cores where some are given.

    What it says goes to the file `path`. `environment` is None for that of this process, with the allocator's settings.
    """
    with path.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fedllm_bench.worker", *words, f"--threads={threads}"],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**(environment or {**ALLOCATOR, **os.environ}), "OMP_NUM_THREADS": str(threads)},
            process_group=0,  # else Ctrl-C on a terminal reaches it twice: from there and from us
        )
    if cores:
        pin(process.pid, cores)
    return process


def stop(processes: Sequence[Child]) -> None:
    """SIGINT to each, once. Who is still there after a minute, or at a second Ctrl-C, is killed."""
    deadline = time.monotonic() + SECONDS_TO_STOP
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        log.info("killing the runs that did not stop; they lose the round they were in, and nothing else")
    finally:
        for process in processes:
            process.kill()  # does nothing to one that has ended
            process.wait()
            close_pipe(process)


def close_pipe(process: Child) -> None:
    """Our end of the pipe to a process that has ended."""
    if process.stdin is not None:
        process.stdin.close()


def failure(code: int, path: Path) -> str:
    """Why a process ended without results, in one line: the signal, or the last line of its log."""
    if code < 0:
        hint = " (was there enough memory?)" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    if code == 0:
        return "it ended well but left no results; were presets or files changed meanwhile? Give the command again"
    return last_line(path).removeprefix("fedllm-bench: ") or f"exit code {code}"


def last_line(path: Path) -> str:
    """The last line of a log that is not empty; "" where there is none."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
