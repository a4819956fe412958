"""Running the cells of a grid, several at once, and what they leave: grid.json, tables and figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fedllm_bench.common import files, hardware
from fedllm_bench.common.cores import groups_of_cores
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.process import ALLOCATOR
from fedllm_bench.common.text import counted
from fedllm_bench.config.run import RunConfig
from fedllm_bench.pipeline import workers
from fedllm_bench.pipeline.grid_progress import Progress, Tell
from fedllm_bench.pipeline.workers import Ended, Worker
from fedllm_bench.report.grid.files import Reasons, report
from fedllm_bench.runs.grid import GridCell, Request, grid_folder, open_cells, queue
from fedllm_bench.runs.opening import open_cell
from fedllm_bench.runs.shards import Shard
from fedllm_bench.runs.start_lines import start_lines

MOST_JOBS = 4  # on a CPU each holds 1 to 2 GB


def check_cells(cells: Sequence[GridCell]) -> None:
    """All that can be known to fail is refused before the first cell is run; this loads torch.

    Raises a :class:`UserError` for the first cell that cannot be run.
    """
    from fedllm_bench.runs.loading import check_cell

    for each in cells:
        check_cell(each.cell)


def default_jobs(cuda: bool) -> int:
    """Cells at once: two on one GPU would share its memory; on a CPU one core each is the fastest."""
    return 1 if cuda else min(MOST_JOBS, hardware.num_threads())


@contextmanager
def alone_in(folder: Path, shard: Shard | None = None, what: str = "grid") -> Iterator[None]:
    """Nobody else runs the grid (or `what` it is) of this folder, or the same share of it, inside the block.

    Raises a :class:`UserError` where somebody does.
    """
    from filelock import FileLock, Timeout

    name = f".lock-{shard.number}-of-{shard.count}" if shard else ".lock"
    try:
        with FileLock(folder / name, timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{folder}: another process is running this {what}; wait for it, or stop it") from error


def run_waiting(
    cells: Sequence[GridCell], waiting: Sequence[GridCell], folder: Path, jobs: int, tell: Tell, *, bar: bool = True
) -> list[Ended]:
    """Run the cells of `waiting`, `jobs` at once; those of `cells` that are not among them are not run.

    `tell` gets a line at the start and for each cell; with `bar` a terminal shows a bar on stderr too.
    """
    grid, done = f"Grid of {counted(len(cells), 'cell')} on {cells[0].cell.split.name}", len(cells) - len(waiting)
    if not waiting:
        tell(f"{grid}, all finished before; nothing to do.")
        return []
    jobs = min(jobs, len(waiting))
    tell(f"{grid}, {done} finished before; {jobs} at once, cores for each: {threads_of(jobs)}.")
    tell(f"Grid folder {folder}")
    progress = Progress(len(cells), len(waiting), jobs, tell, bar=bar)
    try:
        return run_at_once(waiting, folder, jobs, progress)
    finally:
        progress.bar.close()


def threads_of(jobs: int) -> int:
    """Cores for each of so many cells at once."""
    return max(1, hardware.num_threads() // jobs)


def run_at_once(waiting: Sequence[GridCell], folder: Path, jobs: int, progress: Progress) -> list[Ended]:
    """Run these cells, one or more, `jobs` at once; what they say goes to folder/logs. `progress` hears of each."""
    jobs = min(jobs, len(waiting))
    threads, logs = threads_of(jobs), files.make_folder(folder / "logs")
    with _workers_of_ray(waiting[0].cell.config, threads) as (variables, tend):
        one = partial(workers.start_worker, threads=threads, logs=logs)
        if variables:
            one = partial(one, environment={**ALLOCATOR, **os.environ, **variables})
        # workers of Ray have the cores, and train for all cells
        start = Starter(one, None if variables else groups_of_cores([threads] * jobs))

        def report(ended: Ended | None) -> None:
            tend()
            progress(ended)

        return workers.run_cells(waiting, jobs=jobs, start=start, report=report)


@contextmanager
def _workers_of_ray(config: RunConfig, threads: int) -> Iterator[tuple[Mapping[str, str], Callable[[], None]]]:
    """Variables for cells that share a pool of workers, and what is to be called now and then; nothing without Ray."""
    if config.engine != "ray":
        yield {}, lambda: None
        return
    from fedllm_bench.training.cluster.shared import shared_workers  # loads torch

    with shared_workers(config.ray, threads) as owner:
        yield owner.variables(), owner.tend


@dataclass
class Starter:
    """Starts cells, each on a group of cores that no other one has, where there are `groups`."""

    start: Callable[..., Worker]
    groups: Sequence[Sequence[int]] | None
    started: list[Worker] = field(default_factory=list)

    def __call__(self, task: GridCell) -> Worker:
        taken = {worker.cores for worker in self.started if worker.process.poll() is None}
        free = next((group for group in self.groups or () if tuple(group) not in taken), ())
        self.started.append(self.start(task, cores=free))
        return self.started[-1]


def reasons_of(ended: Sequence[Ended]) -> dict[tuple[str, int], str]:
    """Why cells have no results, by method and seed."""
    return {each.task.key: each.reason for each in ended if each.reason}


def report_of(cells: Sequence[GridCell], failed: Reasons, folder: Path) -> dict[str, Any] | None:
    """grid.json with its tables and figures in the grid's folder; None, and nothing, where every cell failed."""
    return report(cells, failed, folder) if len(failed) < len(cells) else None


@dataclass(frozen=True, kw_only=True)
class GridDone:
    """`payload` is grid.json (docs/grid.md), None where every cell failed; `codes` are exit codes of the failed."""

    cells: Sequence[GridCell]
    folder: Path
    payload: dict[str, Any] | None
    failed: Reasons
    codes: Sequence[int]


def report_of_shard(cells: Sequence[GridCell], failed: Reasons, folder: Path, tell: Tell) -> dict[str, Any] | None:
    """The report of the whole grid where all its cells are finished; None, and a line, where some are not."""
    from filelock import FileLock

    missing = sum(not each.is_finished() for each in cells)
    if failed or missing:
        tell(
            f"{len(cells) - missing} of {counted(len(cells), 'cell')} have results; the share that ends last makes the "
            "tables, and so does the same command without --shard"
        )
        return None
    with FileLock(folder / ".lock"):  # another share may end at the same time
        return report_of(cells, failed, folder)


def finish_grid(
    request: Request,
    jobs: int | None,
    tell: Tell,
    *,
    first: str = "",
    bar: bool = True,
    shard: Shard | None = None,
) -> GridDone:
    """Run what is left of a grid, or of a `shard` of it, and report it. `jobs` is None for as many as the machine fits.

    `tell` gets the line `first` when all is checked, then those of :func:`run_waiting`. Raises a :class:`UserError`
    for what is wrong with the request or can be known to fail, and where another process runs the grid.
    """
    cuda = hardware.has_cuda()
    cells = open_cells(request, lambda config: open_cell(config, request.out, cuda))
    mine = shard.of(cells) if shard else cells
    waiting, folder = queue(mine), grid_folder(cells)
    if waiting:
        check_cells(waiting)
    files.make_folder(folder)
    for line in (first, *start_lines(cells[0].cell)) if first and waiting else (first,):
        if line:
            tell(line)
    if shard:
        tell(f"Share {shard} of a grid of {counted(len(cells), 'cell')}: {counted(len(mine), 'cell')}")
    with alone_in(folder, shard):
        ended = run_waiting(mine, waiting, folder, jobs or default_jobs(cuda), tell, bar=bar) if mine else []
        failed = reasons_of(ended)
        payload = report_of_shard(cells, failed, folder, tell) if shard else report_of(cells, failed, folder)
    codes = [each.code for each in ended if each.reason]
    return GridDone(cells=cells, folder=folder, payload=payload, failed=failed, codes=codes)
