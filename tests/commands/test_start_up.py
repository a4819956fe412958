"""What is loaded by when: each of these libraries takes a part of a second, or seconds, before a run trains."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from bench_runs import quiet_environment, words

from fedllm_bench.cli import COMMANDS
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split

HEAVY = {
    "asyncio",
    "matplotlib",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "scipy",
    "ssl",
    "torch",
    "tqdm",
    "transformers",
}
ONLY_LATER = {"bitsandbytes", "datasets", "matplotlib", "peft", "pandas", "scipy.stats", "sklearn", "trl"}
HELP = """
import contextlib, io, json, sys
from fedllm_bench import cli
with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
    cli.main(sys.argv[1:])
assert "usage:" in said.getvalue()
print(json.dumps(sorted(sys.modules)))
"""
UNTIL_TRAINING = """
import json, sys
from pathlib import Path
from fedllm_bench import cli
from fedllm_bench.pipeline import stages
def show(bench, baseline):
    before = sorted(sys.modules)
    stages._save(bench, bench.cell.folder / "adapter", bench.initial)
    print(json.dumps([before, sorted(sys.modules), sorted(path.name for path in bench.cell.folder.glob("adapter/*"))]))
    sys.exit()
stages.score_base, stages.train = lambda bench: None, show
cli.main(sys.argv[1:])
"""


def said(code: str, argv: list[str]) -> str:
    """The last line of what a process of its own says."""
    environment = quiet_environment(files.cache_root())
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.splitlines()[-1]


def test_help_loads_no_library():
    """Of one command, which stands for all: the parsers of all of them are made each time."""
    assert len(COMMANDS) > 10
    loaded = set(json.loads(said(HELP, ["bench", "--help"])))
    assert "fedllm_bench.commands.bench" in loaded
    assert not loaded & HEAVY


@pytest.mark.slow
def test_a_run_that_begins_to_train_has_loaded_nothing_of_figures_and_tables_nor_peft(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path
):
    argv = words("fedavg", tiny_split.folder, tmp_path, "--model", str(tiny_folder), "--metrics", "heldout")
    before, after, written = json.loads(said(UNTIL_TRAINING, argv))
    assert {"torch", "transformers"} <= set(before)
    assert not set(before) & ONLY_LATER
    assert "adapter_config.json" in written
    assert not set(after) & ONLY_LATER
