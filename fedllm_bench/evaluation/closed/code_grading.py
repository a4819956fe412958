"""Runs the programs of samples that a side has written, and notes which passed. A step of its own, after the answers.

An item whose programs could not be run is unscored and says why; a later call runs these, and no others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.common.ledger import Ledger
from fedllm_bench.common.text import counted
from fedllm_bench.evaluation.closed.closed_samples import ClosedSample, read_samples, write_samples
from fedllm_bench.evaluation.closed.code_tasks import CODE_TASKS
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark
from fedllm_bench.evaluation.closed.sandbox.choice import choose_shell
from fedllm_bench.evaluation.closed.sandbox.parallel import ProgramRun, run_programs
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES
from fedllm_bench.evaluation.closed.sandbox.runs import Outcome, SandboxBroken, run_program
from fedllm_bench.evaluation.closed.sandbox.shells import Shell

log = logging.getLogger(__name__)
NOT_RUN = "not run: "  # how a reason begins that a later run may take back
ADVICE = "the same command with --allow-code runs them, in a sandbox"
NOT_ALLOWED = NOT_RUN + "--allow-code runs the programs of a model, in a sandbox"
VERSION = "1"  # of the way programs are run: it rises when an equal program could end otherwise
MOST_REASONS = 3


@dataclass(frozen=True)
class CodeStep:
    """The step that runs programs, in a shell that was tried."""

    shell: Shell

    def run(self, path: Path, label: str) -> None:
        left = grade_file(path, self.shell, f"{label}: running programs")
        if left:
            log.warning("%s: the programs of %s could not be run, and are unscored", label, counted(left, "item"))


def code_step(benchmarks: Sequence[ClosedBenchmark], sandbox: str | None) -> CodeStep | None:
    """The step for benchmarks that need it, None for others, and where `sandbox` is None: programs may not be run.

    Raises a :class:`UserError` where this machine has no such sandbox. What it does not stop is told in a line.
    """
    names = [benchmark.name for benchmark in benchmarks if benchmark.needs_code]
    if not names:
        return None
    if sandbox is None:
        log.warning("%s: programs are written and kept, but not run, so unscored; %s", ", ".join(names), ADVICE)
        return None
    shell, left_open = choose_shell(sandbox)
    if left_open:
        log.warning("%s", left_open)
    return CodeStep(shell)


def is_waiting(sample: ClosedSample) -> bool:
    """Whether its programs are written, and nobody has run them."""
    return sample.form == "code" and not sample.passed and sample.reason.startswith(NOT_RUN)


def grade_file(path: Path, shell: Shell, label: str, jobs: int | None = None) -> int:
    """Run all programs of a file of samples that wait for it; how many items are still unscored because of it.

    What has been run is kept beside the file until all is done, so a killed process goes on from there.
    """
    samples = read_samples(path)
    if not any(map(is_waiting, samples)):
        return 0
    kept = Ledger(path.with_suffix(".programs"), files.sha256_json([VERSION, shell.name]))
    found = graded(samples, shell, kept, label, jobs)
    write_samples(path, found)
    kept.remove()
    return sum(map(is_waiting, found))


def graded(
    samples: Sequence[ClosedSample], shell: Shell, kept: Ledger, label: str, jobs: int | None = None
) -> list[ClosedSample]:
    """The samples, those that waited with `passed`, or with the reason why they still wait."""
    missing = _missing(shell)
    reasons = {sample.task: missing(sample.task) for sample in samples if is_waiting(sample)}
    wanted = {
        name: run
        for sample in samples
        if is_waiting(sample) and not reasons[sample.task]
        for name, run in zip(_names(sample), _runs(sample), strict=True)
        if kept.get(name) is None
    }
    broken: dict[str, str] = {}
    why: Counter[str] = Counter()
    for run, outcome in run_programs(shell, list(wanted.values()), label, jobs) if wanted else ():
        if isinstance(outcome, SandboxBroken):
            broken[run.name] = str(outcome)
        else:
            kept.put(run.name, outcome.passed)
            why[_kind(outcome)] += 1
    _say(label, why)
    return [_with_verdicts(sample, kept, broken, reasons) for sample in samples]


def _with_verdicts(sample: ClosedSample, kept: Ledger, broken: dict[str, str], reasons: dict[str, str]) -> ClosedSample:
    if not is_waiting(sample):
        return sample
    if reason := reasons[sample.task]:
        return replace(sample, reason=NOT_RUN + reason)
    names = _names(sample)
    if reason := next((broken[name] for name in names if name in broken), ""):
        return replace(sample, reason=NOT_RUN + reason)
    return replace(sample, passed=tuple(bool(kept.get(name)) for name in names), reason="")


def _names(sample: ClosedSample) -> list[str]:
    """Equal programs have one name, and are run once."""
    task = CODE_TASKS[sample.task]
    about = [task.language, asdict(task.limits)]
    return [files.sha256_json([*about, text])[:32] for text in sample.texts]


def _runs(sample: ClosedSample) -> Iterator[ProgramRun]:
    task = CODE_TASKS[sample.task]
    for name, text in zip(_names(sample), sample.texts, strict=True):
        yield ProgramRun(name=name, language=LANGUAGES[task.language], text=text, limits=task.limits)


def _missing(shell: Shell) -> Callable[[str], str]:
    """From a task to the reason why its programs cannot be run at all, "" where they can."""

    @cache
    def missing(name: str) -> str:
        task = CODE_TASKS.get(name)
        if task is None:
            return f"{name} is no task whose programs can be run"
        try:
            shell.tool(LANGUAGES[task.language])
            if not task.library:
                return ""
            outcome = run_program(shell, LANGUAGES[task.language], f"import {task.library}", task.limits)
        except (UserError, SandboxBroken) as error:
            return str(error)
        return "" if outcome.passed else f"{task.library} cannot be imported where programs run ({outcome.reason})"

    return missing


def _kind(outcome: Outcome) -> str:
    """Alike reasons are counted together: what an exception says is left out."""
    return "passed" if outcome.passed else outcome.reason.partition(": ")[2].partition(":")[0] or outcome.reason


def _say(label: str, why: Counter[str]) -> None:
    total = why.total()
    if total:
        failed = [(kind, number) for kind, number in why.most_common() if kind != "passed"][:MOST_REASONS]
        reasons = "; ".join(f"{number} x {kind}" for kind, number in failed)
        log.info("%s: %d of %s passed%s", label, why["passed"], counted(total, "program"), reasons and f"; {reasons}")
