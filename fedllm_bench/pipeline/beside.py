"""The baseline `local` in a process of its own, beside the run that needs it: each has a part of the threads.

The baseline is a run folder like any other, with a lock and a plan of its own. Who ends first leaves the other going.
A baseline that ended in any other way than well is gone on with by the run itself, when it needs the scores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fedllm_bench.common import hardware
from fedllm_bench.common.cores import groups_of_cores, kept_on
from fedllm_bench.common.free_memory import available_memory
from fedllm_bench.common.progress import SECONDS_BETWEEN_LINES
from fedllm_bench.config import plugins
from fedllm_bench.config.run import RunConfig
from fedllm_bench.config.size_bound import fits_for_sure
from fedllm_bench.methods import METHODS
from fedllm_bench.methods.base import trains_alone
from fedllm_bench.pipeline import children
from fedllm_bench.pipeline.plan import VERSION, Plan, read_plan
from fedllm_bench.runs.cell import Cell
from fedllm_bench.training.fitting import ERROR, model_settings
from fedllm_bench.training.memory import NoEstimate
from fedllm_bench.training.process_memory import estimate_process

log = logging.getLogger(__name__)
LOG = "baseline.log"  # in the folder of the run that started it
SECONDS_BETWEEN_LOOKS = 0.1


def plan_of(cell: Cell) -> Plan:
    """The plan that the cell's folder has, else that of a cell which begins now, where the baseline may have a share.

    The baseline gets the larger half, since it takes longer. One that was begun keeps its threads. With `--threads`
    the run and its baseline have that number each, one after the other.
    """
    if (found := read_plan(cell.folder)) is not None:
        return found
    plan = Plan(threads=cell.threads, block_size=cell.config.local.block_size, version=VERSION)
    if not _may_share(cell):
        return plan
    begun = read_plan(cell.baseline.folder)
    wanted = begun.threads if begun else cell.threads - cell.threads // 2
    if wanted >= cell.threads or not has_room_for_two(cell.config):
        return plan
    return replace(plan, threads=cell.threads - wanted, baseline_threads=wanted)


def _may_share(cell: Cell) -> bool:
    if cell.config.engine == "ray":  # its workers train both, one after the other
        return False
    if not cell.shares_threads or cell.threads < 2 or hardware.has_cuda():
        return False
    if trains_alone(METHODS[cell.config.method.name]):
        return False
    return cell.baseline.finished() is None


def has_room_for_two(config: RunConfig) -> bool:
    """Whether two processes of this run fit into the free memory, with a base each; True where nobody says."""
    free = available_memory()
    if free is None or fits_for_sure(config, free // 2):
        return True
    try:
        needed = estimate_process(config, model_settings(config))
    except NoEstimate:
        return False
    return (2 * needed.total - needed.base) * (1 + ERROR) <= free  # each of the two counts the other's base


@dataclass(frozen=True)
class Baseline:
    """The baseline of a run; `process` is None where it is trained afterwards, in the process of the run."""

    cell: Cell
    log: Path
    process: children.Child | None = None

    @property
    def is_beside(self) -> bool:
        """Whether the process is at work."""
        return self.process is not None and self.process.poll() is None

    def wait(self, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Until the process has ended, or `is_enough`; with what it says itself every ten seconds.

        Of one that did not end well a line says why.
        """
        if self.process is None:
            return
        told, said = time.monotonic(), ""
        while self.process.poll() is None:
            if is_enough():
                return
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES and (line := children.last_line(self.log)) != said:
                told, said = time.monotonic(), line
                log.info("waiting for the baseline `local`: %s", line)
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if self.cell.finished() is None:
            log.warning("the baseline `local` did not end (%s); it goes on in this process", self.failure())

    def failure(self) -> str:
        """Why the process, which has ended, left no results."""
        return children.failure(self.process.returncode, self.log) if self.process else ""


@contextmanager
def baseline_of(cell: Cell) -> Iterator[Baseline]:
    """The baseline of a run whose folder says what it is; where its plan says so, it is at work inside the block.

    However the block is left, the process has ended by then: by itself, or stopped where there was an error or Ctrl-C.
    What it has done is kept.
    """
    plan = read_plan(cell.folder)
    threads = plan.baseline_threads if plan else None
    baseline = Baseline(cell.baseline.with_threads(threads or cell.threads), cell.folder / LOG)
    if threads is None or baseline.cell.finished() is not None or hardware.num_threads() < threads + cell.threads:
        yield baseline
        return
    own, others = groups_of_cores((cell.threads, threads)) or ((), ())
    words = [children.BASELINE_OF, str(cell.folder.absolute()), *_plugin_words()]
    process = children.start(words, baseline.log, threads=threads, cores=others)
    log.info("the baseline `local` trains beside, threads: %d and %d (log %s)", cell.threads, threads, baseline.log)
    try:
        with kept_on(own):
            baseline = replace(baseline, process=process)
            yield baseline
        process.wait()  # its report, which nobody here needs
        if baseline.cell.finished() is None:
            log.warning("the baseline `local` did not end (%s); the next run that needs it goes on", baseline.failure())
    finally:
        if process.poll() is None:
            children.stop([process])
        children.close_pipe(process)


def _plugin_words() -> list[str]:
    """The files of plugins in use; those of installed packages are found by the process itself."""
    paths = dict.fromkeys(source.path for source in plugins.GIVEN.values() if source.path and not source.package)
    return [f"--plugin={path}" for path in paths]
