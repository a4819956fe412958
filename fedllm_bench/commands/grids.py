"""`fedllm-bench grid` on several data sets: one grid after another, and one page over all of them.

Nothing that is wrong with one data set, or with one cell, stops the rest: it is listed at the end with the command
that runs it again, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_bench.commands import grid_cells
from fedllm_bench.commands.terminal import say
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.text import counted

if TYPE_CHECKING:
    from fedllm_bench.report.grid.summary import GridPart
    from fedllm_bench.runs.grid import GridCell, Request

FAILED = 1


def run(args: argparse.Namespace, names: Sequence[str], profile: str, sentence: str, cuda: bool) -> int:
    """The exit code. Raises a :class:`UserError` for what is wrong with all data sets alike."""
    from fedllm_bench.pipeline.grid_run import default_jobs
    from fedllm_bench.runs.grid import check_overrides

    if args.split is not None:
        raise UserError(f"--split {args.split}: it is of one data set, and {counted(len(names), 'data set')} are given")
    requests = [grid_cells.request_of(argparse.Namespace(**{**vars(args), "dataset": name}), profile) for name in names]
    check_overrides(requests[0].overrides, requests[0].names)
    say(sentence)
    parts = []
    for number, request in enumerate(requests, 1):
        say(f"\nData set {number} of {len(requests)}: {request.dataset}")
        parts.append(_part(request, args.jobs or default_jobs(cuda), cuda))
        _say_refused(parts[-1])
    _check_opened(parts)
    return _finish(parts, args.out)


def _part(request: Request, jobs: int, cuda: bool) -> GridPart:
    from fedllm_bench.report.grid.summary import GridPart
    from fedllm_bench.runs.grid import open_cells
    from fedllm_bench.runs.opening import open_cell

    try:
        cells = open_cells(request, lambda config: open_cell(config, request.out, cuda))
    except Exception as error:  # a split that cannot be built may raise anything, and must not stop the others
        pairs = [(method, seed) for method in request.methods for seed in request.seeds]
        return GridPart(
            request=request, name=request.dataset, reasons=dict.fromkeys(pairs, reason(error)), opened=False
        )
    return _run_part(request, cells, jobs)


def _run_part(request: Request, cells: Sequence[GridCell], jobs: int) -> GridPart:
    from filelock import FileLock, Timeout

    from fedllm_bench.common import files
    from fedllm_bench.pipeline.grid_run import reasons_of, report_of, run_waiting
    from fedllm_bench.report.grid.summary import GridPart
    from fedllm_bench.runs.grid import grid_folder, queue

    folder, name, waiting = grid_folder(cells), cells[0].cell.split.name, queue(cells)
    reasons = _refused(waiting)
    payload = None
    files.make_folder(folder)
    try:
        with FileLock(folder / ".lock", timeout=0):
            able = [each for each in waiting if each.key not in reasons]
            if able or not waiting:
                ended = run_waiting(cells, able, folder, jobs, say)
                reasons |= reasons_of(ended)
            payload = report_of(cells, reasons, folder)
            grid_cells.show(payload, folder)
    except (Timeout, UserError) as error:
        text = "another process is running this grid" if isinstance(error, Timeout) else reason(error)
        reasons = {each.key: text for each in cells}
    return GridPart(request=request, name=name, reasons=reasons, payload=payload, folder=folder)


def _refused(waiting: Sequence[GridCell]) -> dict[tuple[str, int], str]:
    """The cells that can be known to fail, and why; this loads torch, but not where there is nothing to run."""
    reasons: dict[tuple[str, int], str] = {}
    if waiting:
        from fedllm_bench.runs.loading import check_cell

        for each in waiting:
            try:
                check_cell(each.cell)
            except UserError as error:
                reasons[each.key] = str(error)
    return reasons


def reason(error: Exception) -> str:
    """One line; with the kind of error where it is not one that users are meant to see."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def _say_refused(part: GridPart) -> None:
    """What no worker has said: why no cell of the data set is there."""
    if part.payload is None:
        say(f"no cell of {part.name} has results: {next(iter(part.reasons.values()))}")


def _check_opened(parts: Sequence[GridPart]) -> None:
    """Where no data set could be opened, what was asked for is wrong."""
    if not any(part.opened for part in parts):
        texts = dict.fromkeys(f"{part.name}: {next(iter(part.reasons.values()))}" for part in parts)
        raise UserError("; ".join(texts))


def _finish(parts: Sequence[GridPart], out: Path) -> int:
    from fedllm_bench.report.grid.summary import failed_lines, summary, terminal, write

    found = summary(parts, out)
    folder = write(found, [part.payload for part in parts if part.payload is not None], out)
    say("")
    say(terminal(found))
    for line in failed_lines(found):
        say(line)
    say(f"Summary   {folder / 'summary.json'}")
    say(f"Page      {folder / 'summary.md'}")
    return FAILED if found["failed"] else 0
