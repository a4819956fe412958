"""Many programs at a time: in order, faster than one after the other, and ended together."""

from __future__ import annotations

import logging
import time

import pytest

from fedllm_bench.common import progress
from fedllm_bench.evaluation.closed.sandbox import parallel
from fedllm_bench.evaluation.closed.sandbox.choice import choose_shell
from fedllm_bench.evaluation.closed.sandbox.parallel import ProgramRun, run_programs
from fedllm_bench.evaluation.closed.sandbox.programs import LANGUAGES, Limits
from fedllm_bench.evaluation.closed.sandbox.runs import Outcome, SandboxBroken
from fedllm_bench.evaluation.closed.sandbox.shells import Shell


@pytest.fixture(scope="module")
def shell() -> Shell:
    return choose_shell("process")[0]


def of(*texts: str) -> list[ProgramRun]:
    python = LANGUAGES["python"]
    return [ProgramRun(name=str(n), language=python, text=text, limits=Limits()) for n, text in enumerate(texts)]


def test_outcomes_come_in_order_with_what_broke(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    real = parallel.run_program

    def some(shell: Shell, language, text: str, *rest) -> Outcome:
        if text == "broken":
            raise SandboxBroken("no walls")
        if text == "full":
            raise OSError(28, "No space left on device")
        return real(shell, language, text, *rest)

    monkeypatch.setattr(parallel, "run_program", some)
    found = list(run_programs(shell, of("import time; time.sleep(.5)", "1/0", "broken", "full", "pass"), "programs"))
    assert [run.name for run, _ in found] == ["0", "1", "2", "3", "4"]
    outcomes = [outcome for _, outcome in found]
    assert [isinstance(outcome, SandboxBroken) for outcome in outcomes] == [False, False, True, True, False]
    assert [outcome.passed for outcome in outcomes if isinstance(outcome, Outcome)] == [True, False, True]


def test_several_run_at_a_time(shell: Shell):
    """One after the other they cannot work for longer, all together, than from the first to the last."""
    when = "print(time.clock_gettime_ns(time.CLOCK_MONOTONIC))"
    sleepers = of(*[f"import time; {when}; time.sleep(2); {when}"] * 4)
    outcomes = [outcome for _, outcome in run_programs(shell, sleepers, "programs", jobs=4)]
    assert all(isinstance(outcome, Outcome) and outcome.passed for outcome in outcomes)
    begun, ended = zip(*(map(int, outcome.output.split()) for outcome in outcomes), strict=True)
    assert sum(ended) - sum(begun) > max(ended) - min(begun)


def test_who_stops_reading_stops_the_programs(shell: Shell):
    """Six programs of 25 s, two at a time, would take more than a minute."""
    started = time.monotonic()
    found = run_programs(shell, of("pass", *["import time; time.sleep(25)"] * 6), "programs", jobs=2)
    next(found)
    found.close()
    assert time.monotonic() - started < 60


def test_progress_says_how_long_it_takes(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="fedllm_bench"):
        list(run_programs(shell, of("pass", "pass", "pass"), "humaneval base: running programs"))
    assert "humaneval base: running programs: 1 of 3, about" in caplog.text
