"""Grids at a size that takes seconds: their command line, their cells, and workers within this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, words

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split
from fedllm_bench.pipeline import workers
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.grid import GridCell, Request, open_cells


def grid_words(split: Path | None, out: Path, *more: str, dataset: str = "aya") -> list[str]:
    """The command line of a tiny grid."""
    return ["grid", dataset, *words("", split, out, *more)[3:]]


def request_of(split: Split, out: Path = Path("runs"), **more: Any) -> Request:
    given = {"methods": ("local", "fedavg", "fedprox"), "seeds": (0, 1), "overrides": TINY, **more}
    return Request(dataset="aya", profile="mini", out=out, split=str(split.folder), **given)


def cells_of(split: Split, out: Path = Path("runs"), **more: Any) -> list[GridCell]:
    return open_cells(request_of(split, out, **more), lambda config: Cell(config, split, out, 1))


class Ran:
    """Stands for the process of a worker that has ended."""

    def __init__(self, code: int) -> None:
        self.returncode, self.stdin = code, None

    def poll(self) -> int:
        return self.returncode


def started_here(patch: pytest.MonkeyPatch, broken: Callable[[GridCell], bool], code: int = 1) -> list[tuple[str, int]]:
    """Workers run within this process; those of `broken` cells end with `code`. Gives what was started."""
    seen: list[tuple[str, int]] = []

    def start(task: GridCell, *, threads: int, logs: Path, cores: Sequence[int]) -> workers.Worker:
        seen.append(task.key)
        log = logs / f"{task.method}-s{task.seed}.log"
        is_broken = broken(task)
        log.write_text("Traceback:\nRuntimeError: the disk burns\n" if is_broken else "")
        ended = code if is_broken else cli.main([*task.words, f"--threads={threads}"])
        return workers.Worker(task=task, process=Ran(ended), log=log, started=time.monotonic())  # type: ignore[arg-type]

    patch.setattr(workers, "start_worker", start)
    return seen
