"""The reader of run folders: a broken file is one line in the words of the caller, once it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from submitted_runs import BASE_HASH, SPLIT_HASH, write_run

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.runs.folder import RunFaults, RunFolder, runs_in

BROKEN = {
    "config.json": ("config", None, "config.json is not there"),
    "environment.json": ("environment", "[" * 100_000, "environment.json is not JSON"),
    "results.json": ("results", "[]", "results.json is no JSON object"),
}


def test_a_finished_run_lacks_nothing_and_says_what_it_is(tmp_path: Path) -> None:
    folder = write_run(tmp_path, 3)
    run = RunFolder(folder)
    assert list(run.missing()) == []
    assert run.is_of_version
    assert (run.method, run.seed, run.split_hash, run.base_hash) == ("fedavg", 3, SPLIT_HASH, BASE_HASH)
    assert (run.adapter, run.adapters) == (folder / "adapter", {})
    assert run.baselines() == []
    assert RunFolder(folder) == run
    alone = write_run(tmp_path, 3, "local")
    assert run.baselines() == [alone]
    assert run.again("merge").startswith("give the command again that started it, then merge: fedllm-bench bench aya")


def test_what_a_killed_run_lacks_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    (folder / "results.json").unlink()
    rounds = files.read_jsonl(folder / "rounds.jsonl")
    files.write_jsonl(folder / "rounds.jsonl", rounds[:-1])
    (folder / "adapter").rename(folder / "part")
    found = list(RunFolder(folder).missing())
    assert found[0] == "there is no results.json"
    assert found[1].startswith(f"{len(rounds) - 1} of {len(rounds)} rounds")
    assert found[2:] == ["there is no adapter"]


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_when_it_is_asked_for(tmp_path: Path, name: str) -> None:
    what, content, told = BROKEN[name]
    folder = write_run(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    run = RunFolder(folder)
    for other in {"config", "environment", "results"} - {what}:
        getattr(run, other)
    with pytest.raises(UserError, match=told) as caught:
        getattr(run, what)
    assert "\n" not in str(caught.value)


def test_a_caller_has_words_of_its_own_and_paths_stand_as_they_are(tmp_path: Path) -> None:
    class Mine(RunFolder):
        faults = RunFaults(no_hash="{run}|{name}|{path}|{key}")

    folder = write_run(tmp_path / "{run}")
    files.write_json(folder / "environment.json", {"data": {"split_hash": 3}})
    path = folder / "environment.json"
    with pytest.raises(UserError) as caught:
        _ = Mine(folder).split_hash
    assert str(caught.value) == f"{folder}|environment.json|{path}|split_hash"


def test_a_folder_of_runs_holds_them_in_order_and_nothing_else(tmp_path: Path) -> None:
    runs = [write_run(tmp_path, seed) for seed in (1, 0)]
    (runs[0].parent / "notes").mkdir()
    assert runs_in(runs[0].parent) == sorted(runs)
    assert runs_in(runs[0]) == [runs[0]]
    assert runs_in(tmp_path / "none") == []


def test_reading_a_run_loads_no_torch() -> None:
    code = "import sys, fedllm_bench.runs.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
