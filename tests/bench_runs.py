"""Runs of `fedllm-bench bench` at a size that takes a second, and what of them must be equal to the last bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fedllm_bench import cli, files

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
    cost = {key: value for key, value in results["cost"].items() if key not in ("seconds", "peak_memory_bytes")}
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    kept = [*folder.glob("adapter/*"), *folder.glob("adapters/*/*"), *folder.glob("scores/*"), folder / "config.json"]
    return {
        **results,
        "cost": cost,
        "rounds": [{key: value for key, value in record.items() if key != "seconds"} for record in rounds],
        "files": {str(path.relative_to(folder)): files.sha256_file(path) for path in kept},
    }


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
