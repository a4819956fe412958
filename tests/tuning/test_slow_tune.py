"""A search in a process of its own, killed or interrupted: given again, it ends with the same numbers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick, quiet_environment
from grid_runs import started_here
from tunes import ONE_STEP, tune_words

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
PATIENCE_SECONDS = 300
SETTINGS = tuple(word.replace("rounds=1", "rounds=3") for word in ONE_STEP)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


def argv_of(split: Split, model: Path, out: Path) -> list[str]:
    more = ("--model", str(model), "--metrics", "heldout", "--trials", "3", "--confirm", "1", "--jobs", "1")
    return tune_words(split.folder, out, *more, space="local.lr=log:2e-2..1e-1", settings=SETTINGS)


def stopped(argv: list[str], number: signal.Signals, ready: Callable[[], bool]) -> tuple[int, str]:
    """The exit code of the command, and what it said on standard error, after the signal at the moment."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedllm_bench", *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet_environment(files.cache_root()),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
    )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    return process.returncode, err


def rounds(out: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in out.rglob("fedprox/*/rounds.jsonl"))


def finished(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in out.rglob("fedprox/*/results.json")}


def outcome(out: Path) -> dict[str, Any]:
    """All that must not depend on when, how often and how fast the search was run."""
    (folder,) = (out / "mini-aya").glob("tune-*")
    payload = files.read_json(folder / "tune.json")
    for each in payload["trials"]:
        del each["train_seconds"]
    if payload["confirmation"]["comparison"]:
        del payload["confirmation"]["comparison"]["sides"]  # where the runs lie
    texts = {name: (folder / name).read_text() for name in ("table.txt", "tuning.txt")}
    preset = (folder / "preset.toml").read_text().splitlines()[2:]
    return {**payload, **texts, "runs": len(finished(out)), "preset": preset}


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        started_here(patch, lambda task: False)
        assert cli.main(argv_of(tiny_split, tiny_folder, out)) == 0
    return outcome(out)


@pytest.mark.parametrize("moment", ["in the first trial", "when one has ended"])
def test_a_killed_search_goes_on_and_ends_with_the_same_numbers(
    moment: str, tiny_split: Split, tiny_folder: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch
):
    argv = argv_of(tiny_split, tiny_folder, tmp_path)
    moments = {
        "in the first trial": lambda: rounds(tmp_path) > 0,
        "when one has ended": lambda: bool(finished(tmp_path)),
    }
    code, _ = stopped(argv, signal.SIGKILL, moments[moment])
    assert code == -signal.SIGKILL
    before = finished(tmp_path)
    assert len(before) < undisturbed["runs"]
    wait_for_workers(tmp_path)
    started = started_here(monkeypatch, lambda task: False)
    assert cli.main(argv) == 0
    assert outcome(tmp_path) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in before} == before  # no finished trial was run again
    assert len(started) == undisturbed["runs"] - len(before)


def wait_for_workers(out: Path) -> None:
    """Workers end with the search that started them, but not in the same moment."""
    deadline = time.monotonic() + 60
    while any(str(out).encode() in line for line in command_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes()
        except OSError:
            continue  # it ended meanwhile


def test_an_interrupted_search_says_how_to_go_on(
    tiny_split: Split, tiny_folder: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch
):
    argv = argv_of(tiny_split, tiny_folder, tmp_path)
    code, err = stopped(argv, signal.SIGINT, lambda: rounds(tmp_path) > 0)
    assert code == 130
    assert "Traceback" not in err
    assert "the same command goes on" in err.splitlines()[-1]
    started_here(monkeypatch, lambda task: False)
    assert cli.main(argv) == 0
    assert outcome(tmp_path) == undisturbed
