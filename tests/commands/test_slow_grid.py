"""A grid in real processes: run, run again, interrupted, killed. It ends with the same bits and leaves no process."""

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
from bench_runs import TINY, outcome, quiet_environment

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SETTINGS = (*TINY, "federation.rounds=6")
SCORED = ("--metrics", "heldout")  # they are ended in training
CELLS = [(method, seed) for method in ("local", "fedavg") for seed in (0, 1)]
PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def start(split: Split, model: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    options = ["--profile", "mini", "--split", str(split.folder), "--model", str(model), "--out", str(out)]
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    words = ["grid", "aya", "--methods", "local,fedavg", "--seeds", "0,1", "--jobs", "2", *SCORED, *options, *settings]
    return subprocess.Popen(
        [sys.executable, "-m", "fedllm_bench", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet_environment(cache),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=PATIENCE_SECONDS)


def wait_for(ready: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alive(out: Path) -> list[int]:
    """Processes that name this folder on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(out).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended meanwhile
    return found


def rounds(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.rglob("rounds.jsonl"))


def outcomes(out: Path) -> dict[str, Any]:
    found = {}
    for method, seed in CELLS:
        (folder,) = (out / "mini-aya" / method).glob(f"s{seed}-*")
        found[f"{method} {seed}"] = outcome(folder)
    (grid,) = (out / "mini-aya").glob("grid-*/grid.json")
    payload = files.read_json(grid)
    return {**found, "metrics": payload["metrics"], "cells": payload["cells"]}


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tiny_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    process = start(tiny_split, tiny_folder, out, cache)
    shown, err = finish(process)
    assert process.returncode == 0, err
    assert "Grid of 4 cells on mini-aya, 0 finished before; 2 at once" in shown
    assert "4 of 4" in shown
    return out


def test_a_finished_grid_trains_nothing_again(tiny_split: Split, tiny_folder: Path, cache: Path, undisturbed: Path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name != ".lock"}
    process = start(tiny_split, tiny_folder, undisturbed, cache)
    shown, err = finish(process)
    assert process.returncode == 0, err
    assert "minus fedavg" in shown
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.name != ".lock"} == before


def test_workers_are_ordinary_runs_with_their_share_of_the_cores(undisturbed: Path):
    cores = len(os.sched_getaffinity(0))
    assert len(outcomes(undisturbed)) == len(CELLS) + 2
    for method, seed in CELLS:
        (folder,) = (undisturbed / "mini-aya" / method).glob(f"s{seed}-*")
        assert files.read_json(folder / "plan.json")["threads"] == max(1, cores // 2)
        assert (next((undisturbed / "mini-aya").glob("grid-*")) / "logs" / f"{method}-s{seed}.log").stat().st_size
    assert not list(undisturbed.rglob("*.part"))


def test_an_interrupted_grid_stops_its_runs_says_so_and_goes_on(
    tiny_split: Split, tiny_folder: Path, cache: Path, undisturbed: Path, tmp_path: Path
):
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    wait_for(lambda: rounds(tmp_path) > 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)  # only to the grid: not to the group, as a terminal would
    _, err = finish(process)
    assert process.returncode == 130
    assert not alive(tmp_path)
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert outcomes(tmp_path) == outcomes(undisturbed)


@pytest.mark.parametrize("at_rounds", [0, 3])
def test_a_killed_grid_leaves_no_process_and_goes_on(
    at_rounds: int, tiny_split: Split, tiny_folder: Path, cache: Path, undisturbed: Path, tmp_path: Path
):
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    wait_for(lambda: (len(alive(tmp_path)) > 1 and rounds(tmp_path) >= at_rounds) or process.poll() is not None)
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    # at once: the new grid must cope with runs of the old one that are about to end
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert outcomes(tmp_path) == outcomes(undisturbed)
    wait_for(lambda: not alive(tmp_path), seconds=20)
