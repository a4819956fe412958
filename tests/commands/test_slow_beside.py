"""The baseline `local` beside its run, in real processes: the same bits as afterwards, whoever is killed or fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, folder_of, outcome, quiet_environment, words

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SETTINGS = (*TINY, "federation.rounds=8")
PATIENCE_SECONDS = 240
WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
)


def start(split: Split, model: Path, out: Path, cache: Path, *more: str, threads: str = "2") -> subprocess.Popen[str]:
    """A run of two threads, unless `threads` says otherwise; the suite gives its processes one."""
    options = ("--model", str(model), "--metrics", "heldout", *more)
    command = [sys.executable, "-m", "fedllm_bench", *words("fedavg", split.folder, out, *options, settings=SETTINGS)]
    return subprocess.Popen(
        [sys.executable, "-c", WITH_SIGINT, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet_environment(cache, OMP_NUM_THREADS=threads),
    )


def finish(process: subprocess.Popen[str]) -> str:
    """What it said on standard error."""
    return process.communicate(timeout=PATIENCE_SECONDS)[1]


def wait_for(process: subprocess.Popen[str] | None, ready: Callable[[], object]) -> None:
    """Until `ready`; the process must not end before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert process is None or process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.005)


def child_of(out: Path) -> int | None:
    """The number of the process that trains the baseline of a run below `out`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if b"baseline-of" in command and any(str(out).encode() in word for word in command):
            return int(path.parent.name)
    return None


def rounds(out: Path, method: str) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.glob(f"mini-aya/{method}/*/rounds.jsonl"))


def outcomes(out: Path) -> dict[str, Any]:
    return {method: outcome(folder_of(method, out)) for method in ("fedavg", "local")}


def plans(out: Path) -> dict[str, Any]:
    return {method: files.read_json(folder_of(method, out) / "plan.json") for method in ("fedavg", "local")}


def needs_two_cores() -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")


@pytest.fixture(scope="module")
def afterwards(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one thread each, one after the other."""
    needs_two_cores()
    out, cache = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("cache")
    process = start(tiny_split, tiny_folder, out, cache, "--threads", "1")
    err = finish(process)
    assert process.returncode == 0, err
    assert "trains beside" not in err
    assert "the baseline `local` (in " in err
    return out


def test_beside_and_afterwards_end_with_the_same_bits(
    afterwards: Path, tiny_split: Split, tiny_folder: Path, tmp_path: Path
):
    process = start(tiny_split, tiny_folder, tmp_path, tmp_path / "cache")
    err = finish(process)
    assert process.returncode == 0, err
    folder = folder_of("fedavg", tmp_path)
    assert f"the baseline `local` trains beside, threads: 1 and 1 (log {folder / 'baseline.log'})" in err
    assert "the baseline `local` (in " not in err
    assert outcomes(tmp_path) == outcomes(afterwards)
    own, of_baseline = (plans(tmp_path)[method] for method in ("fedavg", "local"))
    assert (own["threads"], own["baseline_threads"]) == (1, 1)
    assert of_baseline["threads"] == 1
    assert "baseline_threads" not in of_baseline
    assert "train local" in (folder / "baseline.log").read_text()
    cost = files.read_json(folder / "results.json")["cost"]["seconds"]
    assert set(cost) == {"score the base", "train", "score", "local baseline"}
    assert child_of(tmp_path) is None
    _check_that_a_held_baseline_is_waited_for(tiny_split, tiny_folder, tmp_path)


def _check_that_a_held_baseline_is_waited_for(tiny_split: Split, tiny_folder: Path, out: Path) -> None:
    """Of the runs in `out` results and the baseline's scores are missing, and somebody else holds its folder."""
    folder = folder_of("local", out)
    missing = (
        folder / "results.json",
        folder / "scores/heldout.after.jsonl",
        folder_of("fedavg", out) / "results.json",
    )
    for path in missing:
        path.unlink()
    code = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        process = start(tiny_split, tiny_folder, out, out / "cache")
        said = folder_of("fedavg", out) / "baseline.log"
        wait_for(process, lambda: said.is_file() and "waiting for another process that runs" in said.read_text())
        holder.communicate("\n")
    err = finish(process)
    assert process.returncode == 0, err
    assert all(path.is_file() for path in missing)


def test_whoever_is_killed_or_interrupted_all_go_on_to_the_same_bits(
    afterwards: Path, tiny_split: Split, tiny_folder: Path, tmp_path: Path
):
    """The run is killed, which ends its baseline too; then Ctrl-C stops both; then the baseline alone is killed."""
    process = start(tiny_split, tiny_folder, tmp_path, tmp_path / "cache")
    wait_for(process, lambda: rounds(tmp_path, "local") >= 1)
    process.kill()
    finish(process)
    wait_for(None, lambda: child_of(tmp_path) is None)

    process = start(tiny_split, tiny_folder, tmp_path, tmp_path / "cache")
    wait_for(process, lambda: child_of(tmp_path))
    process.send_signal(signal.SIGINT)
    err = finish(process)
    assert process.returncode == 130
    assert child_of(tmp_path) is None
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "interrupted" in line] == [err.splitlines()[-1]]

    process = start(tiny_split, tiny_folder, tmp_path, tmp_path / "cache")
    wait_for(process, lambda: child_of(tmp_path))
    os.kill(child_of(tmp_path) or 0, signal.SIGKILL)
    err = finish(process)
    assert process.returncode == 0, err
    assert "the baseline `local` did not end (ended by SIGKILL (was there enough memory?)); it goes on" in err
    assert outcomes(tmp_path) == outcomes(afterwards)
    assert not list(tmp_path.rglob("*.part"))
