"""Processes that are killed while they score: what is done is kept, and the end is that of an undisturbed run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_runs import TINY, folder_of, outcome, words
from forked import Forked

from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SETTINGS = (*TINY, "evaluation.batch_tokens=300", "local.steps=1")
PATIENCE_SECONDS = 240


def start(split: Split, place: Path, cache: Path) -> Forked:
    return Forked(words("fedavg", split.folder, place / "runs", settings=SETTINGS), cache, place / "said")


def wait_for(process: Forked, ready: Callable[[], object]) -> None:
    """Until `ready`; the process must not end before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready():
        assert process.poll() is None, process.err
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ended(process: Forked, signum: int | None = None) -> int:
    """Its exit code, after the signal."""
    if signum is not None:
        process.send_signal(signum)
    return process.wait(PATIENCE_SECONDS)


def has_kept(folder: Path, batches: int) -> bool:
    """Whether so many batches are done and kept in a ledger; its first line is no batch."""
    return any(path.read_bytes().count(b"\n") > batches for path in folder.rglob("*.batches"))


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict:
    place = tmp_path_factory.mktemp("whole")
    run = start(tiny_split, place, tmp_path_factory.mktemp("cache"))
    assert ended(run) == 0, run.err
    return outcome(folder_of("fedavg", place / "runs"))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_base_scores_and_scores_go_on_after_a_signal(
    signum: int, code: int, tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    cache = tmp_path / "cache"
    for where in (cache / "base_scores", tmp_path / "runs"):
        run = start(tiny_split, tmp_path, cache)
        wait_for(run, lambda where=where: has_kept(where, 3))
        assert ended(run, signum) == code
        if signum != signal.SIGKILL:
            assert "interrupted; what is done is kept" in run.err
            assert "Traceback" not in run.err
    run = start(tiny_split, tmp_path, cache)
    assert ended(run) == 0, run.err
    assert "was kept from an earlier session" in run.err
    assert outcome(folder_of("fedavg", tmp_path / "runs")) == undisturbed
    assert not list(tmp_path.rglob("*.batches"))


def test_a_second_process_goes_on_with_the_base_scores_of_one_that_dies(
    tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    cache = tmp_path / "cache"
    first = start(tiny_split, tmp_path / "first", cache)
    wait_for(first, lambda: has_kept(cache, 3))
    first.send_signal(signal.SIGSTOP)  # it holds the lock, and is as slow as can be
    second = start(tiny_split, tmp_path / "second", cache)
    wait_for(second, lambda: "another process is making the same base scores; waiting for it" in second.err)
    ended(first, signal.SIGKILL)
    assert ended(second) == 0, second.err
    assert "score base: " in second.err
    assert "was kept from an earlier session" in second.err
    assert outcome(folder_of("fedavg", tmp_path / "second" / "runs")) == undisturbed
