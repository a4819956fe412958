"""Cells of a grid in processes of their own: `python -m fedllm_bench.worker bench ...` for each.

Two rules keep them from writing one file at once: the first one works alone until the scores of the base model
are in the shared cache, and of the cells that share an unfinished baseline only one is at work.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_bench.pipeline import children
from fedllm_bench.runs.folder import BASELINE
from fedllm_bench.runs.grid import GridCell

log = logging.getLogger(__name__)
SECONDS_BETWEEN_LOOKS = 0.2


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
    process: children.Child
    log: Path
    started: float
    cores: tuple[int, ...] = ()


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


def start_worker(
    task: GridCell,
    *,
    threads: int,
    logs: Path,
    cores: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> Worker:
    """Start the cell with so many threads, on these cores; what it says goes to logs/<method>-s<seed>.log."""
    path = logs / f"{task.method}-s{task.seed}.log"
    process = children.start(task.words, path, threads=threads, cores=cores, environment=environment)
    return Worker(task=task, process=process, log=path, started=time.monotonic(), cores=tuple(cores))


def stop(workers: Sequence[Worker]) -> None:
    """As :func:`children.stop`, and a line that says so."""
    if workers:
        log.info("stopping %d running; the rounds they have done are kept", len(workers))
    children.stop([worker.process for worker in workers])


def _ended(worker: Worker) -> Ended:
    code = worker.process.returncode
    children.close_pipe(worker.process)
    reason = "" if worker.task.is_finished() else children.failure(code, worker.log)
    return Ended(task=worker.task, seconds=time.monotonic() - worker.started, code=code, reason=reason)


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
