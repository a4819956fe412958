"""`bench` on a tiny preference split."""

from __future__ import annotations

from pathlib import Path

from bench_runs import TINY, quick

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split


def words(dataset: str, split: Split, model: Path, out: Path, *settings: str) -> list[str]:
    where = ["--split", str(split.folder), "--model", str(model), "--out", str(out)]
    overrides = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return ["bench", dataset, "fedavg", "--profile", "mini", *where, *overrides]


def run(dataset: str, split: Split, model: Path, out: Path, *settings: str) -> Path:
    with quick():
        assert cli.main(words(dataset, split, model, out, *settings)) == 0
    (folder,) = (out / f"mini-{dataset}" / "fedavg").glob("s0-*")
    return folder
