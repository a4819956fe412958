"""How far a grid is: one line for each cell that ended, and a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from fedllm_bench.common.text import duration, number
from fedllm_bench.pipeline.workers import Ended, seconds_left

BAR = "{n_fmt} of {total_fmt} |{bar}| {elapsed}{postfix}"
SECONDS_BETWEEN_LINES = 30.0
Tell = Callable[[str], None]  # gets one line at a time


class Progress:
    """Called with each cell that ended, and with None now and then. `tell` gets the lines; the bar is on stderr."""

    def __init__(self, total: int, waiting: int, jobs: int, tell: Tell, *, bar: bool = True) -> None:
        from tqdm import tqdm

        self.total, self.waiting, self.jobs, self.tell = total, waiting, jobs, tell
        self.ended: list[Ended] = []
        self.started = self.last_line = time.monotonic()
        is_off = not (bar and sys.stderr.isatty())
        self.bar = tqdm(total=total, initial=total - waiting, bar_format=BAR, disable=is_off)

    def __call__(self, ended: Ended | None) -> None:
        if ended is not None:
            self.ended.append(ended)
            self.bar.update()
            with self.bar.external_write_mode():  # the bar gives way to the line
                self.tell(f"{self._done()}  {about(ended)}")
        self.bar.set_postfix_str(self._left().removeprefix(", "))  # tqdm writes a comma itself
        if self.bar.disable and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.tell(f"{self._done()}  {duration(time.monotonic() - self.started)}{self._left()}")

    def found(self, count: int) -> None:
        """So many of those that were thought to be left had ended before."""
        self.waiting -= count
        self.bar.update(count)

    def _done(self) -> str:
        return f"{self.total - self.waiting + len(self.ended)} of {self.total}"

    def _left(self) -> str:
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
