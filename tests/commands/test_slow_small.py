"""Profile small in a process of its own: all that it says are the suite's own lines, and its labels follow what ran."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench_runs import TINY, quiet_environment

from fedllm_bench.data.manifest import Split

pytestmark = pytest.mark.slow
OURS = re.compile(
    r"(tokenise|score|train) .*: (\d+ of \d+ .*|done in \d+\.\d s)"
    r"|the baseline `local` \(in .*\)|.* were cut; .* lost\."
)


def said(words: list[str], cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedllm_bench", *words]
    return subprocess.run(command, capture_output=True, text=True, env=quiet_environment(cache), check=False)


def test_a_run_says_nothing_but_its_own_lines(tiny_split: Split, tiny_folder: Path, tmp_path: Path) -> None:
    settings = [word for setting in (*TINY, "local.sequence_length=64") for word in ("--set", setting)]
    words = ["bench", "aya", "fedavg", "--profile", "small", "--split", str(tiny_split.folder), *settings]
    done = said([*words, "--model", str(tiny_folder), "--out", str(tmp_path / "runs")], tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not OURS.fullmatch(line)] == []
    assert done.stderr.count("were cut") <= 1  # the baseline does not say it again
    start = done.stdout.splitlines()[:5]
    assert [line.split(" ")[0] for line in start] == ["Profile", "Model:", "Data", "Evaluation", "Run"]
    (run,) = (tmp_path / "runs").glob("*/fedavg/*")
    about = json.loads((run / "results.json").read_text(encoding="utf-8"))["run"]
    assert (about["base"], about["profile"], len(about["base_hash"])) == ("tiny", "small", 64)
    assert "profile small, tiny" in done.stdout
    assert "embedded model" not in done.stdout
