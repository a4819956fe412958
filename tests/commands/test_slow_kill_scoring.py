"""Real processes, killed while they score: what is done is kept, and the end is that of an undisturbed run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bench_runs import TINY, folder_of, outcome, quiet_environment, words

from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
SETTINGS = (*TINY, "evaluation.batch_tokens=300", "local.steps=1")
PATIENCE_SECONDS = 240


class Started:
    """A bench in a process of its own, whose words go to a file."""

    def __init__(self, split: Split, place: Path, cache: Path) -> None:
        self.out, self.errors = place / "runs", place / "stderr.txt"
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fedllm_bench", *words("fedavg", split.folder, self.out, settings=SETTINGS)]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=errors, env=quiet_environment(cache)
            )

    @property
    def said(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    def wait_for(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            assert self.process.poll() is None, self.said
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def end(self, signum: int | None = None) -> int:
        if signum is not None:
            self.process.send_signal(signum)
        return self.process.wait(timeout=PATIENCE_SECONDS)


def has_kept(folder: Path, batches: int) -> bool:
    """Whether so many batches are done and kept in a ledger; its first line is no batch."""
    return any(path.read_bytes().count(b"\n") > batches for path in folder.rglob("*.batches"))


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict:
    run = Started(tiny_split, tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("cache"))
    assert run.end() == 0, run.said
    return outcome(folder_of("fedavg", run.out))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_base_scores_and_scores_go_on_after_a_signal(
    signum: int, code: int, tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    cache = tmp_path / "cache"
    for where in (cache / "base_scores", tmp_path / "runs"):
        run = Started(tiny_split, tmp_path, cache)
        run.wait_for(lambda where=where: has_kept(where, 3))
        assert run.end(signum) == code
        if signum != signal.SIGKILL:
            assert "interrupted; what is done is kept" in run.said
            assert "Traceback" not in run.said
    run = Started(tiny_split, tmp_path, cache)
    assert run.end() == 0, run.said
    assert "was kept from an earlier session" in run.said
    assert outcome(folder_of("fedavg", run.out)) == undisturbed
    assert not list(tmp_path.rglob("*.batches"))


def test_a_second_process_goes_on_with_the_base_scores_of_one_that_dies(
    tiny_split: Split, undisturbed: dict, tmp_path: Path
):
    cache = tmp_path / "cache"
    first = Started(tiny_split, tmp_path / "first", cache)
    first.wait_for(lambda: has_kept(cache, 3))
    first.process.send_signal(signal.SIGSTOP)  # it holds the lock, and is as slow as can be
    second = Started(tiny_split, tmp_path / "second", cache)
    second.wait_for(lambda: "another process is making the same base scores; waiting for it" in second.said)
    first.end(signal.SIGKILL)
    assert second.end() == 0, second.said
    assert "score base: " in second.said
    assert "was kept from an earlier session" in second.said
    assert outcome(folder_of("fedavg", second.out)) == undisturbed
