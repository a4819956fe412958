"""`grid --engine ray`: its cells share one pool of workers, each of which loads the base once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench_runs import quick, quiet_environment
from grid_runs import grid_words, started_here

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow


def numbers(out: Path) -> dict[str, object]:
    (path,) = (out / "mini-aya").glob("grid-*/grid.json")
    found = json.loads(path.read_text())
    return {key: found[key] for key in ("cells", "metrics", "intervals", "references")}


def test_cells_of_a_grid_share_workers_and_give_the_same_table(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    less = ("--model", str(tiny_folder), "--metrics", "heldout", "--methods", "local,fedavg", "--seeds", "0")
    settings = ("--set", "local.block_size=1")
    argv = grid_words(tiny_split.folder, tmp_path / "ray", *less, *settings, "--engine", "ray", "--jobs", "2")
    done = subprocess.run(
        [sys.executable, "-m", "fedllm_bench", *argv],
        capture_output=True,
        text=True,
        env=quiet_environment(tmp_path / "cache"),
        timeout=280,
        check=False,
    )
    logs = {path.name: path.read_text() for path in (tmp_path / "ray").rglob("logs/*.log")}
    assert done.returncode == 0, (done.stderr, logs)
    assert len(logs) == 2
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    with quick():
        started_here(monkeypatch, lambda task: False)
        assert cli.main(grid_words(tiny_split.folder, tmp_path / "alone", *less, *settings)) == 0
    ours = numbers(tmp_path / "ray")
    assert ours
    assert ours == numbers(tmp_path / "alone")
