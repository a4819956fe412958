"""`fedllm-bench grid`: a whole grid at tiny size, its cells within this process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_runs import code_of, quick, quiet_environment, run
from grid_runs import grid_words, started_here

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture
def started(monkeypatch) -> list[tuple[str, int]]:
    """What was started; the cell of `fedprox` with the seed 9 is broken."""
    return started_here(monkeypatch, lambda task: task.key == ("fedprox", 9))


@pytest.fixture
def less(tiny_folder: Path) -> tuple[str, ...]:
    return ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice", "--methods", "local,fedavg,fedprox")


def test_a_grid_runs_once_and_is_then_shown_at_once(tiny_split: Split, less, tmp_path: Path, capsys, started):
    argv = grid_words(tiny_split.folder, tmp_path, *less, "--seeds", "0,1")
    assert cli.main(argv) == 0
    assert started[:2] == [("local", 0), ("local", 1)]
    assert len(started) == 6
    shown = capsys.readouterr().out
    (folder,) = (tmp_path / "mini-aya").glob("grid-*")
    assert (
        f"Grid of 6 cells on mini-aya, 0 finished before; 1 at once, cores for each: 1.\nGrid folder {folder}" in shown
    )
    assert "6 of 6  fedprox     seed 1" in shown
    names = {"grid.json", "table.md", "table.txt", "table.csv", "figures", "logs", ".lock"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "table.txt").read_text() in shown
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    assert cli.main(argv) == 0
    assert len(started) == 6
    again = capsys.readouterr().out
    assert "all finished before; nothing to do" in again
    assert (folder / "table.txt").read_text() in again
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"} == before


@pytest.mark.slow
def test_a_finished_grid_is_shown_without_loading_torch(tiny_split: Split, less, tmp_path: Path, capsys, started):
    argv = grid_words(tiny_split.folder, tmp_path, *less, "--seeds", "0")
    assert cli.main(argv) == 0
    code = (
        "import sys; from fedllm_bench import cli; from fedllm_bench.common import hardware;"
        "hardware.has_cuda = lambda: False;"
        "assert cli.main(sys.argv[1:]) == 0; heavy = {'torch', 'transformers', 'peft', 'matplotlib'};"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    environment = quiet_environment(Path(os.environ["FEDLLM_BENCH_CACHE"]))
    done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "mini-aya").glob("grid-*")
    assert (folder / "table.txt").read_text().splitlines()[5] in done.stdout


def test_single_runs_are_reused_and_differences_are_those_of_the_runs(
    tiny_split: Split, less, tmp_path: Path, capsys, started
):
    single = run("fedavg", tiny_split.folder, tmp_path, *less[:4])  # which runs local too
    assert cli.main(grid_words(tiny_split.folder, tmp_path, *less, "--seeds", "0")) == 0
    assert started == [("fedprox", 0)]
    assert "2 finished before" in capsys.readouterr().out
    (path,) = (tmp_path / "mini-aya").glob("grid-*/grid.json")
    payload, results = files.read_json(path), files.read_json(single / "results.json")
    assert payload["metrics"].keys() == results["metrics"].keys()
    for name, entry in results["metrics"].items():
        rows = payload["metrics"][name]["methods"]
        assert rows["fedavg"]["mean"] == pytest.approx(entry["after"]["mean"])
        assert rows["base"]["mean"] == pytest.approx(entry["before"]["mean"])
        pairs = [(rows["fedavg"]["differences"]["local"], entry["difference_to_local"])]
        pairs += [(rows["base"]["differences"]["fedavg"], entry["difference"])]
        for (got, expected), sign in zip(pairs, (1, -1), strict=True):
            if expected is not None:
                assert (got["n"], got["n_unscored"]) == (expected["n"], expected["n_unscored"])
                want = None if expected["mean"] is None else pytest.approx(sign * expected["mean"])
                assert got["mean"] == want


def test_a_failed_cell_is_a_row_that_says_why_and_the_others_go_on(
    tiny_split: Split, less, tmp_path: Path, capsys, started
):
    argv = grid_words(tiny_split.folder, tmp_path, *less, "--seeds", "9")
    assert code_of(argv) == 1
    shown = capsys.readouterr().out
    assert [key for key, _ in started] == ["local", "fedavg", "fedprox"]
    assert "failed: RuntimeError: the disk burns" in shown
    assert "failed: fedprox seed 9: RuntimeError: the disk burns" in shown
    assert any(line.split()[:2] == ["fedprox", "failed"] for line in shown.splitlines())
    assert code_of(argv) == 1  # which tries what failed, and only that
    assert [key for key, _ in started] == ["local", "fedavg", "fedprox", "fedprox"]


@pytest.mark.slow
def test_without_a_reference_its_column_is_absent_and_that_is_said(
    tiny_split: Split, less, tmp_path: Path, capsys, started
):
    argv = grid_words(tiny_split.folder, tmp_path, *less[:4], "--methods", "fedavg,fedprox", "--seeds", "0")
    assert cli.main(argv) == 0
    shown = capsys.readouterr().out
    assert "minus fedavg [clients]" in shown
    assert "minus local [clients]" not in shown
    assert "no column minus local: it is not among the methods" in shown
    assert "seeds were not resampled (there is one, 0)" in " ".join(shown.split())


def test_a_grid_that_fails_as_a_whole_leaves_no_table(tiny_split: Split, less, tmp_path: Path, capsys, started):
    argv = grid_words(tiny_split.folder, tmp_path, *less[:4], "--methods", "fedprox", "--seeds", "9")
    assert code_of(argv) == 1
    assert "failed: RuntimeError: the disk burns" in capsys.readouterr().out
    assert not list(tmp_path.rglob("grid.json"))


@pytest.mark.slow
def test_two_grids_on_one_folder_do_not_mix(tiny_split: Split, less, tmp_path: Path, capsys, started):
    from filelock import FileLock

    argv = grid_words(tiny_split.folder, tmp_path, *less, "--seeds", "0")
    assert cli.main(argv) == 0
    (folder,) = (tmp_path / "mini-aya").glob("grid-*")
    with FileLock(folder / ".lock"):
        capsys.readouterr()
        assert code_of(argv) == 2
        assert "another process is running this grid" in capsys.readouterr().err
