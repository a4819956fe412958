"""Many programs, some at a time, with progress; Ctrl-C ends them all."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fedllm_bench.common.cores import num_cores
from fedllm_bench.common.progress import track
from fedllm_bench.evaluation.closed.sandbox.programs import Limits, ProgramLanguage
from fedllm_bench.evaluation.closed.sandbox.runs import Outcome, SandboxBroken, run_program
from fedllm_bench.evaluation.closed.sandbox.shells import Shell


@dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """A program that is to be run, under a name of the caller's."""

    name: str
    language: ProgramLanguage
    text: str
    limits: Limits


def run_programs(
    shell: Shell, runs: Sequence[ProgramRun], label: str, jobs: int | None = None
) -> Iterator[tuple[ProgramRun, Outcome | SandboxBroken]]:
    """In order, each with its outcome, or with what kept it from being run. `jobs`: at a time, one for each core."""
    stop = threading.Event()

    def outcome(run: ProgramRun) -> Outcome | SandboxBroken:
        try:
            return run_program(shell, run.language, run.text, run.limits, stop)
        except SandboxBroken as error:
            return error
        except OSError as error:  # no process, file or memory is left for it
            return SandboxBroken(str(error))

    pool = ThreadPoolExecutor(jobs or num_cores(), thread_name_prefix="programs")
    try:
        yield from track(zip(runs, pool.map(outcome, runs), strict=True), label, len(runs))
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
