"""Running the cells of a grid: several at once, with progress, then the table."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands import bench
from fedllm_bench.commands.terminal import BAD_INPUT, say
from fedllm_bench.common.text import counted, duration, number

if TYPE_CHECKING:
    from fedllm_bench.pipeline.workers import Ended
    from fedllm_bench.report.grid.files import Reasons
    from fedllm_bench.runs.grid import GridCell, Request

MOST_JOBS = 4  # on a CPU each holds 1 to 2 GB

FAILED = 1

BAR = "{n_fmt} of {total_fmt} |{bar}| {elapsed}{postfix}"

SECONDS_BETWEEN_LINES = 30.0


def request_of(args: argparse.Namespace, profile: str) -> Request:
    """What the options ask for; a :class:`UserError` for methods or seeds that are none."""
    from fedllm_bench.runs.grid import Request, parse_methods, parse_seeds

    same = {key: getattr(args, key) for key in ("dataset", "engine", "variant", "split", "model", "metrics", "out")}
    return Request(
        methods=parse_methods(args.methods),
        seeds=parse_seeds(args.seeds),
        profile=profile,
        overrides=tuple(args.overrides),
        plugins=tuple(args.plugins),
        **same,
    )


def check_cells(cells: Sequence[GridCell]) -> None:
    """All that can be known to fail is refused before the first cell is run; this loads torch."""
    from fedllm_bench.runs.loading import check_cell

    for each in cells:
        check_cell(each.cell)


def default_jobs(cuda: bool) -> int:
    """Cells at once: two on one GPU would share its memory; on a CPU one core each is the fastest."""
    return 1 if cuda else min(MOST_JOBS, bench.num_threads())


def exit_code(failed: Sequence[int]) -> int:
    """0 without failures, 2 where all of them are bad input, else 1."""
    if not failed:
        return 0
    return BAD_INPUT if set(failed) == {BAD_INPUT} else FAILED


def run_waiting(cells: Sequence[GridCell], waiting: Sequence[GridCell], folder: Path, jobs: int) -> list[Ended]:
    """Run the cells of `waiting`, `jobs` at once; those of `cells` that are not among them are not run."""
    from fedllm_bench.common import files
    from fedllm_bench.common.process import ALLOCATOR
    from fedllm_bench.pipeline.workers import run_cells, start_worker

    grid, done = f"Grid of {counted(len(cells), 'cell')} on {cells[0].cell.split.name}", len(cells) - len(waiting)
    if not waiting:
        say(f"{grid}, all finished before; nothing to do.")
        return []
    jobs = min(jobs, len(waiting))
    threads = max(1, bench.num_threads() // jobs)
    logs = files.make_folder(folder / "logs")
    say(f"{grid}, {done} finished before; {jobs} at once, cores for each: {threads}.")
    say(f"Grid folder {folder}")
    start = partial(start_worker, threads=threads, logs=logs, environment={**ALLOCATOR, **os.environ})
    progress = Progress(len(cells), len(waiting), jobs)
    try:
        return run_cells(waiting, jobs=jobs, start=start, report=progress)
    finally:
        progress.bar.close()


class Progress:
    """One line for each cell that ended, and how far the grid is: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int, waiting: int, jobs: int) -> None:
        from tqdm import tqdm

        self.total, self.waiting, self.jobs = total, waiting, jobs
        self.ended: list[Ended] = []
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(total=total, initial=total - waiting, bar_format=BAR, disable=not sys.stderr.isatty())

    def __call__(self, ended: Ended | None) -> None:
        if ended is not None:
            self.ended.append(ended)
            self.bar.update()
            self.bar.write(f"{self._done()}  {about(ended)}", file=sys.stdout)
            sys.stdout.flush()
        self.bar.set_postfix_str(self._left().removeprefix(", "))  # tqdm writes a comma itself
        if self.bar.disable and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            say(f"{self._done()}  {duration(time.monotonic() - self.started)}{self._left()}")

    def _done(self) -> str:
        return f"{self.total - self.waiting + len(self.ended)} of {self.total}"

    def _left(self) -> str:
        from fedllm_bench.pipeline.workers import seconds_left

        open_cells = self.waiting - len(self.ended)
        left = seconds_left(self.ended, open_cells=open_cells, jobs=self.jobs)
        return "" if left is None or not open_cells else f", about {duration(left)} left"


def about(ended: Ended) -> str:
    """ "fedprox   seed 1   1 min 02 s   heldout 0.218"."""
    task = ended.task
    start = f"{task.method:<11} seed {task.seed:<3} {duration(ended.seconds):>12}"
    if ended.reason:
        return f"{start}  failed: {ended.reason}"
    metrics = (task.cell.finished() or {})["metrics"]
    name = next(iter(metrics))
    return f"{start}  {name} {number(metrics[name]['after']['mean'])}"


def show(cells: Sequence[GridCell], reasons: Reasons, folder: Path) -> dict[str, Any] | None:
    """Print the table and where it lies, and give its numbers; None, and nothing, where every cell failed."""
    from fedllm_bench.report.grid.files import GRID, report
    from fedllm_bench.report.grid.table import TABLE_WIDTH, terminal_table

    if len(reasons) == len(cells):
        return None
    payload = report(cells, reasons, folder)
    say("")
    say(terminal_table(payload, shutil.get_terminal_size((TABLE_WIDTH, 24)).columns))
    say(f"Numbers   {folder / GRID}")
    say(f"Tables    {folder / 'table.md'}, {folder / 'table.txt'}")
    say(f"Figures   {folder / 'figures'}")
    return payload
