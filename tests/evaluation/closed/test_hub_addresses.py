"""Addresses of files on the hub, as our task files write them, are what `datasets` itself finds there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from closed_rows import MADE
from parquet_hub import hub_of, parquet

from fedllm_bench.evaluation.closed import tasks
from fedllm_bench.evaluation.closed.declared import closed_benchmarks

LOAD = """
import json, sys
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
print(json.dumps({name: len(manager.load(name)["tasks"][name].eval_docs) for name in sys.argv[2:]}))
"""


def addresses(task: str) -> dict[str, str]:
    """Split -> address, as a task file names them."""
    lines = (tasks.FOLDER / f"{task.removeprefix('fedllm_')}.yaml").read_text(encoding="utf-8").splitlines()
    pairs = (line.strip().partition(": ") for line in lines if "hf://datasets/" in line)
    return {split: address for split, _, address in pairs}


@pytest.mark.slow
def test_every_address_of_parquet_files_is_found(tmp_path: Path) -> None:
    files, wanted = {}, []
    for benchmark in closed_benchmarks().values():
        for task in benchmark.task if benchmark.data in MADE and not benchmark.folder else ():
            for split, address in addresses(task).items():
                name = address.removeprefix("hf://datasets/").replace("*", "0000")
                files[name] = parquet(MADE[benchmark.data].loaded()[split])
                wanted.append(task)
    asked = sorted(set(wanted))
    assert len(asked) == 21
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with hub_of(files) as address:
        env = {**quiet, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-c", LOAD, str(tasks.FOLDER), *asked]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(found) == set(asked)
    assert all(count > 0 for count in found.values())
