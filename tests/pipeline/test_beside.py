"""When the baseline `local` trains beside its run, with how many threads each, and which plan is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_runs import folder_of, quick, words

from fedllm_bench import cli
from fedllm_bench.common import files, hardware
from fedllm_bench.config import plugins
from fedllm_bench.config.plugins import Source
from fedllm_bench.config.run import RunConfig
from fedllm_bench.data.manifest import Split
from fedllm_bench.pipeline import bench_run, beside, children
from fedllm_bench.pipeline.beside import Baseline, baseline_of, has_room_for_two, plan_of
from fedllm_bench.pipeline.plan import Plan, read_plan, write_plan
from fedllm_bench.runs.cell import Cell
from fedllm_bench.training.memory import NoEstimate


@pytest.fixture(autouse=True)
def _on_a_processor_with_room(monkeypatch) -> None:
    monkeypatch.setattr(hardware, "has_cuda", lambda: False)
    monkeypatch.setattr(beside, "has_room_for_two", lambda config: True)


@pytest.fixture
def cell(tiny_split: Split, tiny_run_config: Any, tmp_path: Path) -> Cell:
    return Cell(tiny_run_config("fedprox"), tiny_split, tmp_path, 4, shares_threads=True)


def shares(cell: Cell) -> tuple[int, int | None]:
    plan = plan_of(cell)
    return plan.threads, plan.baseline_threads


def begun(cell: Cell, **plan: int | None) -> None:
    files.make_folder(cell.folder)
    write_plan(cell.folder, replace(Plan(threads=1, block_size=8), **plan))  # type: ignore[arg-type]


# --- the plan


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, (1, None)), (2, (1, 1)), (3, (1, 2)), (4, (2, 2)), (5, (2, 3)), (64, (32, 32))]
)
def test_threads_are_shared_evenly(threads: int, expected: tuple[int, int | None], cell: Cell):
    assert shares(replace(cell, threads=threads)) == expected


def test_with_a_number_of_threads_both_have_it_one_after_the_other(cell: Cell):
    assert shares(replace(cell, shares_threads=False)) == (4, None)


def test_a_baseline_that_is_begun_keeps_its_threads(cell: Cell):
    begun(cell.baseline, threads=1)
    assert shares(cell) == (3, 1)
    begun(cell.baseline, threads=4)
    assert shares(cell) == (4, None)


def test_afterwards_where_it_is_finished_on_a_gpu_of_a_personal_method_or_without_room(
    cell: Cell, tiny_run_config: Any, monkeypatch
):
    assert shares(cell.like(tiny_run_config("local"))) == (4, None)
    for patched in ((hardware, "has_cuda", lambda: True), (beside, "has_room_for_two", lambda config: False)):
        with monkeypatch.context() as patch:
            patch.setattr(*patched)
            assert shares(cell) == (4, None)
    monkeypatch.setattr(Cell, "finished", lambda self: {})
    assert shares(cell) == (4, None)


def test_a_run_keeps_the_plan_that_it_has(cell: Cell):
    begun(cell, threads=2)
    assert shares(cell) == (2, None)
    begun(cell, threads=3, baseline_threads=1)
    assert shares(replace(cell, shares_threads=False, threads=1)) == (3, 1)


def test_a_plan_on_disk_is_read_whatever_else_stands_in_it(tmp_path: Path):
    assert read_plan(tmp_path) is None
    files.write_json(tmp_path / "plan.json", {"threads": 2, "block_size": 4, "more": 1})
    assert read_plan(tmp_path) == Plan(threads=2, block_size=4)
    plan = write_plan(tmp_path, Plan(threads=1, block_size=8, version=2, baseline_threads=1))
    assert read_plan(tmp_path) == plan
    assert files.read_json(tmp_path / "plan.json")["baseline_threads"] == 1


def test_a_plan_without_a_process_beside_does_not_name_its_threads(tmp_path: Path):
    write_plan(tmp_path, Plan(threads=2, block_size=8))
    assert "baseline_threads" not in files.read_json(tmp_path / "plan.json")


@pytest.mark.parametrize(("free", "fits"), [(None, True), (1, False), (20, False), (21, True)])
def test_two_processes_need_twice_as_much_but_one_base_each(
    free: int | None, fits: bool, tiny_run_config: Any, monkeypatch
):
    needed = SimpleNamespace(total=10, base=4)  # two bases, as where one process loads both
    monkeypatch.setattr(beside, "fits_for_sure", lambda config, room: False)
    monkeypatch.setattr(beside, "model_settings", lambda config: None)
    monkeypatch.setattr(beside, "estimate_process", lambda config, settings: needed)
    monkeypatch.setattr(beside, "available_memory", lambda: free)
    assert has_room_for_two(tiny_run_config("fedavg")) is fits


def test_where_memory_cannot_be_estimated_only_a_small_run_has_room(tiny_run_config: Any, monkeypatch):
    def unknown(config: RunConfig, settings: Any) -> None:
        raise NoEstimate("an unknown architecture")

    monkeypatch.setattr(beside, "model_settings", lambda config: None)
    monkeypatch.setattr(beside, "estimate_process", unknown)
    monkeypatch.setattr(beside, "available_memory", lambda: 10**10)
    rooms: list[int] = []
    monkeypatch.setattr(beside, "fits_for_sure", lambda config, room: bool(rooms.append(room)))
    assert not has_room_for_two(tiny_run_config("fedavg"))
    assert rooms == [10**10 // 2]
    monkeypatch.setattr(beside, "fits_for_sure", lambda config, room: True)
    assert has_room_for_two(tiny_run_config("fedavg"))


# --- the process


class Started:
    """Stands for a process; `code` is None as long as it runs."""

    def __init__(self, code: int | None = None) -> None:
        self.returncode, self.stdin, self.signals = code, None, list[int]()

    def poll(self) -> int | None:
        return self.returncode

    wait = poll


@pytest.fixture
def started(monkeypatch) -> list[tuple[list[str], dict[str, Any]]]:
    calls: list[tuple[list[str], dict[str, Any]]] = []

    def start(words: list[str], path: Path, **options: Any) -> Started:
        calls.append((words, options))
        return Started(0)

    monkeypatch.setattr(children, "start", start)
    monkeypatch.setattr(hardware, "num_threads", lambda: 4)
    monkeypatch.setattr(beside, "groups_of_cores", lambda threads: None)
    return calls


def test_it_is_started_as_the_plan_says_with_the_run_that_needs_it(cell: Cell, started, caplog):
    begun(cell, threads=3, baseline_threads=1)
    with baseline_of(replace(cell, threads=3)) as baseline:
        assert baseline.process is not None
        assert (baseline.cell.folder, baseline.cell.threads) == (cell.baseline.folder, 1)
    assert "the next run that needs it goes on" in caplog.text  # the one here has ended without results
    assert started == [(["baseline-of", str(cell.folder)], {"threads": 1, "cores": ()})]


def test_it_gets_the_files_of_plugins_in_use_but_not_those_of_packages(cell: Cell, started, monkeypatch):
    """What an installed package has every process finds by itself."""
    given = Source(name="mine.py", where="--plugin mine.py", content=b"", path="/files/mine.py")
    installed = replace(given, name="theirs.py", path="/site-packages/theirs.py", package="theirs 1.0")
    found = {("METHODS", "one"): given, ("METRICS", "two"): given, ("METRICS", "three"): installed}
    monkeypatch.setattr(plugins, "GIVEN", found)
    begun(cell, threads=3, baseline_threads=1)
    with baseline_of(replace(cell, threads=3)):
        ((words, _),) = started
    assert words[2:] == ["--plugin=/files/mine.py"]


@pytest.mark.parametrize(("threads", "baseline_threads", "of"), [(4, None, 4), (4, 1, 1), (3, 2, 2)])
def test_without_cores_for_both_it_comes_afterwards_with_the_threads_of_the_plan(
    threads: int, baseline_threads: int | None, of: int, cell: Cell, started
):
    begun(cell, threads=threads, baseline_threads=baseline_threads)
    with baseline_of(replace(cell, threads=threads)) as baseline:
        assert not baseline.is_beside
        assert baseline.cell.threads == of
        baseline.wait()  # for nothing
    assert not started


@pytest.mark.parametrize("code", [-9, 1, 2, 130])
def test_one_that_did_not_end_well_is_told_of_in_one_line(code: int, cell: Cell, tmp_path: Path, caplog):
    (tmp_path / "log").write_text("at work\nfedllm-bench: no room\n")
    Baseline(cell.baseline, tmp_path / "log", Started(code)).wait()  # type: ignore[arg-type]
    (line,) = caplog.messages
    assert line.startswith("the baseline `local` did not end (")
    assert ("no room" in line) is (code > 0)
    assert line.endswith("; it goes on in this process")


def test_while_the_run_waits_it_shows_how_far_the_baseline_is(cell: Cell, tmp_path: Path, caplog, monkeypatch):
    monkeypatch.setattr(beside, "SECONDS_BETWEEN_LINES", 0.0)
    process = Started()
    looks = iter(["", "train local: 40%, about 9 s left\n", "score local: done in 1.0 s\n"])

    def sleep(seconds: float) -> None:
        (tmp_path / "log").write_text(next(looks, ""))
        process.returncode = None if (tmp_path / "log").read_text() or len(caplog.messages) < 2 else 0

    (tmp_path / "log").write_text("")
    monkeypatch.setattr(beside.time, "sleep", sleep)
    monkeypatch.setattr(Cell, "finished", lambda self: {})
    with caplog.at_level("INFO"):
        Baseline(cell.baseline, tmp_path / "log", process).wait()  # type: ignore[arg-type]
    assert caplog.messages == [
        "waiting for the baseline `local`: train local: 40%, about 9 s left",
        "waiting for the baseline `local`: score local: done in 1.0 s",
    ]


def test_a_run_waits_no_longer_than_it_must(cell: Cell, tmp_path: Path, caplog):
    baseline = Baseline(cell.baseline, tmp_path / "log", Started())  # type: ignore[arg-type]
    baseline.wait(lambda: True)
    assert baseline.is_beside
    assert not caplog.messages


def test_the_worker_runs_the_baseline_of_the_folder_it_is_given(cell: Cell, monkeypatch, tmp_path: Path):
    files.make_folder(cell.folder)
    files.write_json(cell.folder / "config.json", cell.config.to_dict())
    data = {"split": cell.split.name, "split_hash": cell.split.hash, "base_hash": cell.base_hash}
    files.write_json(cell.folder / "environment.json", {"data": data})
    ran: list[tuple[Path, int, bool]] = []
    monkeypatch.setattr("fedllm_bench.runs.cell.resolve_split", lambda config: cell.split)
    monkeypatch.setattr(
        "fedllm_bench.pipeline.stages.run_cell",
        lambda cell, *, is_baseline: ran.append((cell.folder, cell.threads, is_baseline)),
    )
    bench_run.run_baseline(cell.folder, 3)
    assert ran == [(cell.baseline.folder, 3, True)]


def test_a_run_of_before_is_finished_by_its_plan(tiny_split: Split, tiny_folder: Path, tmp_path: Path, monkeypatch):
    """Begun with one thread and nobody beside: so the baseline comes afterwards with one too, on however many cores."""
    command = words("fedavg", tiny_split.folder, tmp_path, "--model", str(tiny_folder), "--metrics", "heldout")
    with quick(), monkeypatch.context() as patch:
        patch.setattr("fedllm_bench.pipeline.stages.train", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
    plan = {"threads": 1, "block_size": 8}
    files.write_json(folder_of("fedavg", tmp_path) / "plan.json", plan)
    monkeypatch.setattr(children, "start", lambda *args, **options: pytest.fail("nothing is started"))
    with quick(), monkeypatch.context() as patch:
        patch.setattr(hardware, "num_threads", lambda: 8)
        assert cli.main(command) == 0
    kept = {method: files.read_json(folder_of(method, tmp_path) / "plan.json") for method in ("fedavg", "local")}
    assert kept["fedavg"] == plan
    assert kept["local"]["threads"] == 1
    assert "baseline_threads" not in kept["local"]
    assert not (folder_of("fedavg", tmp_path) / "baseline.log").exists()
