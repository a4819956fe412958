"""A cell from wherever it is to its end. Torch is loaded only where something is left to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedllm_bench.common.process import loading
from fedllm_bench.runs.cell import Cell, split_of_run
from fedllm_bench.runs.folder import RunFolder
from fedllm_bench.runs.opening import check_memory


def finish(cell: Cell, starting: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The results (docs/results.md) of a cell that is run where it has not ended before.

    `starting` is called when it is known that it will be run. Raises a :class:`UserError` where training will not fit
    into memory, or another process runs the cell.
    """
    if (found := cell.finished()) is not None:
        return found
    check_memory(cell.config)
    starting()
    with loading():
        from fedllm_bench.pipeline.stages import run_cell

    return run_cell(cell)


def run_baseline(folder: Path, threads: int) -> None:
    """Run the baseline `local` of the run in `folder`, which has been begun.

    Raises a :class:`UserError` where that cannot be done, or another process is doing it.
    """
    with loading():
        from fedllm_bench.pipeline.stages import run_cell
    run = RunFolder(folder)
    cell = Cell(run.config, split_of_run(run), folder.parents[2], threads)
    vars(cell)["base_hash"] = run.base_hash  # as the run has just found it; a large base takes long to hash
    run_cell(cell.baseline, is_baseline=True)
