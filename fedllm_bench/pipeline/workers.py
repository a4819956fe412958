"""Cells of a grid in processes of their own: `python -m fedllm_bench.worker bench ...` for each.

Two rules keep them from writing one file at once: the first one works alone until the scores of the base model
are in the shared cache, and of the cells that share an unfinished baseline only one is at work. A worker holds
the reading end of a pipe to the process that started it, and ends when that one does, however that was.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.runs.folder import BASELINE
from fedllm_bench.runs.grid import GridCell

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_STOP = 60.0  # the clients in training end first; a killed run loses no more than one round


@dataclass(frozen=True, kw_only=True)
class Ended:
    """`reason` is "" where the cell was finished, else why it was not. `code` is the exit code of its process."""

    task: GridCell
    seconds: float
    code: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Worker:
    task: GridCell
    process: subprocess.Popen[bytes]
    log: Path
    started: float


Report = Callable[[Ended | None], None]


def run_cells(
    tasks: Sequence[GridCell], *, jobs: int, start: Callable[[GridCell], Worker], report: Report
) -> list[Ended]:
    """Run all tasks, `jobs` at once, and go on when one fails.

    `report` is called with each cell that ended, and with None several times a second. On any exception,
    Ctrl-C among them, all workers are stopped first.
    """
    waiting, running = list(tasks), list[Worker]()
    started, ended = list[GridCell](), list[Ended]()
    try:
        while waiting or running:
            for worker in [each for each in running if each.process.poll() is not None]:
                running.remove(worker)
                ended.append(_ended(worker))
                report(ended[-1])
            while len(running) < jobs and (task := next_task(waiting, [each.task for each in running], started)):
                waiting.remove(task)
                started.append(task)
                running.append(start(task))
            report(None)
            time.sleep(SECONDS_BETWEEN_LOOKS if running else 0)
    finally:
        stop(running)
    return ended


def next_task(waiting: Sequence[GridCell], running: Sequence[GridCell], started: Sequence[GridCell]) -> GridCell | None:
    """The first that may start now beside those that run; None where all must wait.

    `started`: those of this session, ended or not, one of which must have scored the base model.
    """
    if running and not any(task.has_base_scores() for task in started):
        return None
    busy = {task.baseline.folder for task in running}
    return next((task for task in waiting if task.baseline.folder not in busy or task.has_baseline()), None)


def start_worker(task: GridCell, *, threads: int, logs: Path, environment: Mapping[str, str]) -> Worker:
    """Start the cell with `threads` cores; what it says goes to logs/<method>-s<seed>.log."""
    path = logs / f"{task.method}-s{task.seed}.log"
    words = [sys.executable, "-m", "fedllm_bench.worker", *task.words, f"--threads={threads}"]
    with path.open("wb") as file:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**environment, "OMP_NUM_THREADS": str(threads)},
            process_group=0,  # else Ctrl-C on a terminal reaches it twice: from there and from us
        )
    return Worker(task=task, process=process, log=path, started=time.monotonic())


def stop(workers: Sequence[Worker]) -> None:
    """SIGINT to each, once. Who is still there after a minute, or at a second Ctrl-C, is killed."""
    deadline = time.monotonic() + SECONDS_TO_STOP
    if workers:
        log.info("stopping %d running; the rounds they have done are kept", len(workers))
    try:
        for worker in workers:
            worker.process.send_signal(signal.SIGINT)
        for worker in workers:
            worker.process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        log.info("killing the cells that did not stop; they lose the round they were in, and nothing else")
    finally:
        for worker in workers:
            worker.process.kill()  # does nothing to one that has ended
            worker.process.wait()
            assert worker.process.stdin is not None
            worker.process.stdin.close()


def _ended(worker: Worker) -> Ended:
    code = worker.process.returncode
    if worker.process.stdin is not None:
        worker.process.stdin.close()
    reason = "" if worker.task.is_finished() else failure(code, worker.log)
    return Ended(task=worker.task, seconds=time.monotonic() - worker.started, code=code, reason=reason)


def failure(code: int, path: Path) -> str:
    """Why a process ended without results, in one line: the signal, or the last line of its log."""
    if code < 0:
        hint = " (was there enough memory?)" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    if code == 0:
        return "it ended well but left no results; were presets or files changed meanwhile? Give the command again"
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), f"exit code {code}")
    return last.removeprefix("fedllm-bench: ")


def seconds_left(ended: Sequence[Ended], *, open_cells: int, jobs: int) -> float | None:
    """What is left to do, were all other cells like those that ended; None before the first one.

    The baseline trains few clients, so it says little of other cells and counts only while there is nothing else.
    """
    good = [each for each in ended if not each.reason]
    good = [each for each in good if each.task.method != BASELINE] or good
    if not good:
        return None
    each = sum(one.seconds for one in good) / len(good)
    half_done = min(jobs, open_cells) / 2
    return each * (open_cells - half_done) / jobs
