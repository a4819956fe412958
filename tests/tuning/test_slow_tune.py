"""A search in real processes: killed and interrupted at any moment, it ends with the same numbers as one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quiet_environment
from tunes import ONE_STEP, tune_words

from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 300
SETTINGS = (*(word for word in ONE_STEP if not word.startswith("federation.rounds")), "federation.rounds=3")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def start(split: Split, model: Path, out: Path, cache: Path) -> subprocess.Popen[str]:
    """Eight trials by TPE: two of them are proposed from what the first six have shown."""
    more = ("--model", str(model), "--metrics", "heldout", "--trials", "8", "--confirm", "2", "--jobs", "2")
    words = tune_words(split.folder, out, *more, space="local.lr=log:2e-2..1e-1", settings=SETTINGS)
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
        time.sleep(0.02)


def rounds(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.rglob("fedprox/*/rounds.jsonl"))


def results(out: Path) -> int:
    return len(list(out.rglob("fedprox/*/results.json")))


def outcome(out: Path) -> dict[str, Any]:
    """All that must not depend on when, how often and how fast the search was run."""
    (folder,) = (out / "mini-aya").glob("tune-*")
    payload = files.read_json(folder / "tune.json")
    for each in payload["trials"]:
        del each["train_seconds"]
    del payload["confirmation"]["comparison"]["sides"]  # where the runs lie
    texts = {name: (folder / name).read_text() for name in ("table.txt", "tuning.txt")}
    return {**payload, **texts, "runs": results(out), "preset": (folder / "preset.toml").read_text().splitlines()[2:]}


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tiny_folder: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    process = start(tiny_split, tiny_folder, out, cache)
    shown, err = finish(process)
    assert process.returncode == 0, err
    assert "Trials 6 to 7" in shown
    assert "left" in shown or "12 of 12" in shown
    return out


def test_a_search_that_was_not_disturbed_chooses_and_confirms(undisturbed: Path):
    found = outcome(undisturbed)
    assert len({str(each["setting"]) for each in found["trials"]}) == 8
    assert found["confirmation"]["verdict"] in ("better", "worse", "not told apart")
    assert found["runs"] == 12
    assert not list(undisturbed.rglob("*.part"))


@pytest.mark.parametrize("moment", ["in the first trials", "when some have ended", "in those of TPE"])
def test_a_killed_search_goes_on_and_ends_with_the_same_numbers(
    moment: str, tiny_split: Split, tiny_folder: Path, cache: Path, undisturbed: Path, tmp_path: Path
):
    ready = {
        "in the first trials": lambda: rounds(tmp_path) >= 1,
        "when some have ended": lambda: results(tmp_path) >= 3,
        "in those of TPE": lambda: results(tmp_path) >= 6 and rounds(tmp_path) >= 19,
    }[moment]
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    wait_for(lambda: ready() or process.poll() is not None)
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("results.json")}
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert outcome(tmp_path) == outcome(undisturbed)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # no finished trial was run again


def test_an_interrupted_search_says_how_to_go_on(
    tiny_split: Split, tiny_folder: Path, cache: Path, undisturbed: Path, tmp_path: Path
):
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    wait_for(lambda: rounds(tmp_path) >= 2 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    process = start(tiny_split, tiny_folder, tmp_path, cache)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert outcome(tmp_path) == outcome(undisturbed)
