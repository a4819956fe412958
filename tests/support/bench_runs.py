"""Runs of `fedllm-bench bench` at a size that takes a second, and what of them must be equal to the last bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import cli
from fedllm_bench.common import files, hardware
from fedllm_bench.pipeline import results_stage as report

DRAW = report._draw
TINY = (
    "federation.rounds=2",
    "federation.clients_per_round=3",
    "local.steps=2",
    "local.micro_batch=4",
    "local.accumulation=1",
    "evaluation.local_clients=2",
    "evaluation.max_new_tokens=4",
    "evaluation.bootstrap_samples=200",
)


SPENT = ("seconds", "peak_memory_bytes", "cpu_seconds", "energy_joules", "energy_method")


@contextmanager
def quick(*, figures: bool = False) -> Iterator[None]:
    """One thread, no GPU, no figures (half of a tiny run), and transformers as quiet as the command makes it."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "num_threads", lambda: 1)
        patch.setattr(hardware, "has_cuda", lambda: False)
        patch.setattr(report, "_draw", DRAW if figures else lambda *args: [])
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    logging.set_verbosity(before)
    logging.enable_progress_bar()


def words(method: str, split: Path | None, out: Path, *more: str, settings: tuple[str, ...] = TINY) -> list[str]:
    """The command line of a tiny run, without the name of the program."""
    where = ["--split", str(split)] if split else []
    overrides = [word for setting in settings for word in ("--set", setting)]
    return ["bench", "aya", method, "--profile", "mini", *where, "--out", str(out), *overrides, *more]


def run(method: str, split: Path, out: Path, *more: str) -> Path:
    """Run in this process; the folder of the run. It must end well."""
    assert cli.main(words(method, split, out, *more)) == 0
    return folder_of(method, out)


def folder_of(method: str, out: Path) -> Path:
    """The one run folder of `method` below `out`."""
    (folder,) = (path for path in (out / "mini-aya" / method).iterdir() if path.is_dir())
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves and that must not depend on when, how often and how fast it was run."""
    results = files.read_json(folder / "results.json")
    cost = {key: value for key, value in results["cost"].items() if key not in SPENT}
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    kept = [*folder.glob("adapter/*"), *folder.glob("adapters/*/*"), *folder.glob("scores/*"), folder / "config.json"]
    return {
        **results,
        "run": {key: value for key, value in results["run"].items() if key != "commit"},
        "cost": cost,
        "rounds": [timeless(record) for record in rounds],
        "files": {str(path.relative_to(folder)): files.sha256_file(path) for path in kept},
    }


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A line of rounds.jsonl without its times."""
    found = {key: value for key, value in record.items() if key != "seconds"}
    return {key: timeless(value) if key == "check" else value for key, value in found.items()}


def quiet_environment(cache: Path, **more: str) -> dict[str, str]:
    """Of a child process: own cache, one thread for each kernel, no hub."""
    return {
        **os.environ,
        "FEDLLM_BENCH_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        **more,
    }


def code_of(argv: list[str]) -> int:
    """The exit code of the command, also where argparse ends it."""
    try:
        return cli.main(argv)
    except SystemExit as end:
        return int(str(end.code))


def assert_refused(argv: list[str], out: Path, capsys: pytest.CaptureFixture[str], *expected: str) -> None:
    """Exit code 2, one line on standard error that holds the expected words, no run folder below `out`."""
    capsys.readouterr()
    assert code_of(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("fedllm-bench")
    for word in expected:
        assert word in lines[0]
    assert not list(out.rglob("s0-*"))
