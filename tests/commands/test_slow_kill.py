"""A process, killed at random moments: the same command ends with the same bits as an undisturbed run.

SIGKILL asks nothing of a process, so those that are killed are forked. What a signal is answered with is asked of
processes that are started as from a shell, and all of them must end with the bits of one another.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench_runs import TINY, folder_of, outcome, quiet_environment, words
from forked import Forked

from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SETTINGS = (*TINY, "federation.rounds=12")
SCORED = ("--metrics", "heldout")  # they are killed in training; in scoring: test_slow_kill_scoring.py
KILLS = 6
PATIENCE_SECONDS = 240
# On one core, so that a run is not slower for whatever else the machine does, and the plan always has one thread.
# With SIGINT as a terminal gives it: a job in the background of a script inherits it ignored.
ONE_CORE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.executable, sys.argv[2:])"
)


def command(split: Split, out: Path) -> list[str]:
    return words("fedavg", split.folder, out, *SCORED, settings=SETTINGS)


def start(split: Split, out: Path, cache: Path) -> subprocess.Popen[str]:
    """As from a shell."""
    core = str(min(os.sched_getaffinity(0)))
    return subprocess.Popen(
        [sys.executable, "-c", ONE_CORE, core, sys.executable, "-m", "fedllm_bench", *command(split, out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet_environment(cache),
    )


def fork(split: Split, place: Path) -> Forked:
    return Forked(command(split, place / "runs"), place / "cache", place / "said")


def wait_for(process: subprocess.Popen[str] | Forked, ready: Callable[[], object]) -> None:
    """Until `ready`, or until the process has ended."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_at_work(out: Path) -> bool:
    """Whether a process holds the lock of the run; looking does not take it."""
    inodes = {str(path.stat().st_ino) for path in out.glob("mini-aya/fedavg/s0-*/.lock")}
    held = {line.split()[-3].rpartition(":")[2] for line in Path("/proc/locks").read_text().splitlines()}
    return bool(inodes & held)


def progress(out: Path) -> tuple[int, int]:
    """Files of all runs, and rounds done."""
    rounds = sum(len(path.read_text().splitlines()) for path in out.rglob("rounds.jsonl"))
    return sum(path.is_file() for path in out.rglob("*")), rounds


def has_done(out: Path, rounds: int) -> bool:
    return progress(out)[1] >= rounds


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict:
    place = tmp_path_factory.mktemp("undisturbed")
    process = fork(tiny_split, place)
    assert process.wait(PATIENCE_SECONDS) == 0, process.err
    return outcome(folder_of("fedavg", place / "runs"))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    seed: int, tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    rng = np.random.default_rng(seed)
    out = tmp_path / "runs"
    states = []
    for _ in range(KILLS):
        process = fork(tiny_split, tmp_path)
        wait_for(process, lambda: is_at_work(out))
        target = progress(out)[1] + int(rng.integers(0, 3))  # by rounds, since seconds differ with the load
        wait_for(process, functools.partial(has_done, out, target))
        time.sleep(float(rng.uniform(0, 0.3)))
        process.send_signal(signal.SIGKILL)
        if process.wait(PATIENCE_SECONDS) != -signal.SIGKILL:
            break  # it was done before
        states.append(progress(out))
    assert len(states) >= 2, "the kills came too late to say anything"
    assert max(rounds for _, rounds in states) > 0, "the kills came too early to say anything"
    process = fork(tiny_split, tmp_path)
    assert process.wait(PATIENCE_SECONDS) == 0, process.err
    folder = folder_of("fedavg", out)
    assert outcome(folder) == undisturbed
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_one_line_and_it_goes_on(
    signum: int, code: int, tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    process = start(tiny_split, tmp_path / "runs", tmp_path / "cache")
    wait_for(process, lambda: progress(tmp_path / "runs")[1] > 2)
    process.send_signal(signum)
    _, err = finish(process)
    assert process.returncode == code
    assert "stopping after the clients" in err
    assert "Traceback" not in err
    (line,) = (line for line in err.splitlines() if "interrupted" in line)
    assert line == err.splitlines()[-1]
    assert "the same command goes on from there: fedllm-bench bench aya fedavg --profile mini" in line
    process = start(tiny_split, tmp_path / "runs", tmp_path / "cache")
    finish(process)
    assert process.returncode == 0
    assert outcome(folder_of("fedavg", tmp_path / "runs")) == undisturbed


def test_two_processes_on_one_run_do_not_mix(tiny_split: Split, undisturbed: dict, tmp_path: Path):
    first = fork(tiny_split, tmp_path)
    wait_for(first, lambda: is_at_work(tmp_path / "runs"))
    second = Forked(command(tiny_split, tmp_path / "runs"), tmp_path / "cache", tmp_path / "said by the second")
    second.wait(PATIENCE_SECONDS)
    assert first.wait(PATIENCE_SECONDS) == 0, first.err
    if second.returncode != 0:  # it came while the first one was at work
        assert second.returncode == 2
        assert "another process is running this" in second.err
    assert outcome(folder_of("fedavg", tmp_path / "runs")) == undisturbed
