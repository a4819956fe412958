"""`fedllm-bench grid`: methods and seeds on a data set, from presets to one table of paired differences.

Several data sets are so many grids, one after another, and a page over them: `commands/grids.py`.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_bench.commands import bench
from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted, duration, number
from fedllm_bench.config.preflight import choose_profile

if TYPE_CHECKING:
    from fedllm_bench.pipeline.workers import Ended
    from fedllm_bench.report.grid.files import Reasons
    from fedllm_bench.runs.grid import GridCell, Request

log = logging.getLogger(__name__)
MOST_JOBS = 4  # on a CPU each holds 1 to 2 GB
FAILED, BAD_INPUT = 1, 2
BAR = "{n_fmt} of {total_fmt} |{bar}| {elapsed}{postfix}"
SECONDS_BETWEEN_LINES = 30.0
EXAMPLES = """examples:
  fedllm-bench grid aya --seeds 0,1,2                            (eight methods and both baselines)
  fedllm-bench grid aya --methods local,fedavg,scaffold --seeds 0,1,2
  fedllm-bench grid aya --set federation.rounds=60 --set fedprox:method.mu=0.1
                                                                 (METHOD: before a setting of one method)
  fedllm-bench grid aya --methods local,fedavg,fedavg+shuffled   (a control: rows dealt to clients at random)
  fedllm-bench grid aya,wildchat --seeds 0,1,2                   (one table each, and one over both; or: grid all)

Each cell is a run of `fedllm-bench bench`, in the same folder: those that are finished are not run again, and a
grid that was interrupted goes on when the same command is given again. The table, grid.json (docs/grid.md) and
figures lie in OUT/<data set>/grid-<hash>/, what the runs said in its logs/.

The differences to fedavg and to local are paired: the same client, the same seed. Each has two 95% intervals,
one over clients (of each the mean over seeds) and one over seeds.
  clear                both intervals exclude 0. With one seed there is only the one over clients, which says
                       nothing of other seeds; the table then says so.
  not distinguishable  one of the intervals holds 0. That is no proof that two methods are equal: after the mark
                       stands the smallest true difference that would have shown in four of five tries. Three
                       seeds show large ones only; take five or more where minutes allow.
Each comparison stands for itself; the table says how many there are, and claims nothing over all of them.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "grid",
        help="run methods and seeds on a data set and compare them",
        description="Run every method under every seed on a data set, and print one table of paired differences.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="a preset of data set, as aya; several with commas between, or all")
    parser.add_argument("--methods", default="all", help="names with commas between, or all (default all)")
    parser.add_argument("--seeds", default="0,1,2", help="whole numbers with commas between (default 0,1,2)")
    parser.add_argument(
        "--jobs", type=bench.positive, metavar="N", help="cells at once (default: one per core, at most 4; 1 on a GPU)"
    )
    bench.add_settings(
        parser, metavar="[METHOD:]KEY=VALUE", help="a setting, of all methods or of one; may be repeated"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from filelock import FileLock, Timeout

    from fedllm_bench.commands import grids
    from fedllm_bench.common import files
    from fedllm_bench.runs.grid import grid_folder, open_cells, parse_datasets, queue

    cuda = bench.has_cuda()
    profile, sentence = choose_profile(args.profile, cuda)
    if (names := parse_datasets(args.dataset)) != (args.dataset,):
        return grids.run(args, names, profile, sentence, cuda)
    cells = open_cells(request_of(args, profile), lambda config: bench.open_cell(config, args.out, cuda))
    waiting, folder = queue(cells), grid_folder(cells)
    if waiting:
        _check(waiting)
    files.make_folder(folder)
    say(sentence)
    try:
        with FileLock(folder / ".lock", timeout=0):
            ended = run_waiting(cells, waiting, folder, args.jobs or default_jobs(cuda))
            show(cells, {each.task.key: each.reason for each in ended if each.reason}, folder)
    except Timeout as error:
        raise UserError(f"{folder}: another process is running this grid; wait for it, or stop it") from error
    return exit_code([each.code for each in ended if each.reason])


def request_of(args: argparse.Namespace, profile: str) -> Request:
    """What the options ask for; a :class:`UserError` for methods or seeds that are none."""
    from fedllm_bench.runs.grid import Request, parse_methods, parse_seeds

    same = {key: getattr(args, key) for key in ("dataset", "engine", "variant", "split", "model", "metrics", "out")}
    return Request(
        methods=parse_methods(args.methods),
        seeds=parse_seeds(args.seeds),
        profile=profile,
        overrides=tuple(args.overrides),
        **same,
    )


def _check(cells: Sequence[GridCell]) -> None:
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


# --- running


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
