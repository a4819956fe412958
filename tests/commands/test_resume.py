"""A run that is given twice, at the same time, or again after it failed: the same bits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_runs import TINY, folder_of, outcome, quick, run, words
from sweeps import sweep

from fedllm_bench import cli
from fedllm_bench.common import files, hardware
from fedllm_bench.config import presets
from fedllm_bench.data.manifest import Split
from fedllm_bench.runs.cell import Cell


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    """Options for runs that take half a second: a smaller model, two of the metrics."""
    return ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice")


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, less: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run from an empty cache, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return outcome(run("fedavg", tiny_split.folder, tmp_path_factory.mktemp("runs"), *less))


def test_the_same_settings_give_the_same_bits_in_another_folder(
    undisturbed: dict[str, Any], tiny_split: Split, less: tuple[str, ...], tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    again = outcome(run("fedavg", tiny_split.folder, tmp_path, *less))
    assert again == undisturbed
    assert len(again["files"]) == 2 + 4 + 1  # adapter, scores, config


def test_a_second_process_on_the_same_run_is_told_so(tiny_split: Split, tmp_path: Path, capsys):
    cell = Cell(
        presets.load("aya", "fedavg", "mini", TINY, split=str(tiny_split.folder)), tiny_split, tmp_path / "runs", 1
    )
    cell.folder.mkdir(parents=True)
    code = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(cell.folder / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert cli.main(words("fedavg", tiny_split.folder, tmp_path / "runs")) == 2
        holder.communicate("\n")
    assert "another process is running this" in capsys.readouterr().err
    assert {path.name for path in cell.folder.iterdir()} == {".lock"}


FAULTS = [
    ("fedllm_bench.pipeline.stages.score_base", 1),
    ("fedllm_bench.pipeline.stages.train", 1),
    ("fedllm_bench.training.rounds._one_round", 2),
    ("fedllm_bench.training.rounds.save_server", 2),
    ("fedllm_bench.pipeline.stages.save_adapter", 1),
    ("fedllm_bench.pipeline.stages.score_after", 1),
    ("fedllm_bench.runs.score_files._score_file", 9),
    ("fedllm_bench.pipeline.stages.score_local", 1),
    ("fedllm_bench.training.rounds._one_round", 4),  # in the baseline
    ("fedllm_bench.pipeline.stages.save_adapter", 3),
    ("fedllm_bench.pipeline.results_stage.write_report", 1),  # of the baseline
    ("fedllm_bench.pipeline.results_stage.write_report", 2),
    ("fedllm_bench.pipeline.results_stage.write_results", 2),
]


QUICK = [fault for fault in FAULTS if fault[1] in {2, 9}]  # within training, scoring and the report
NAMES = [f"{where[13:]}-{call}" for where, call in FAULTS]


@pytest.mark.parametrize(("where", "call"), sweep(FAULTS, *QUICK), ids=NAMES)
def test_a_run_that_failed_anywhere_goes_on_to_the_same_bits(
    where: str,
    call: int,
    undisturbed: dict[str, Any],
    tiny_split: Split,
    less: tuple[str, ...],
    tmp_path: Path,
    monkeypatch,
):
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    module, _, name = where.rpartition(".")
    real = getattr(sys.modules[module], name)
    calls = 0

    def failing(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("power cut")
        return real(*args, **options)

    monkeypatch.setattr(where, failing)
    command = words("fedavg", tiny_split.folder, tmp_path, *less)
    with pytest.raises(RuntimeError, match="power cut"):
        cli.main(command)
    assert not (folder_of("fedavg", tmp_path) / "results.json").exists()
    assert cli.main(command) == 0
    assert outcome(folder_of("fedavg", tmp_path)) == undisturbed
    assert not list(tmp_path.rglob("*.part"))


def test_a_resumed_run_keeps_the_plan_of_its_first_session(
    tiny_split: Split, less: tuple[str, ...], tmp_path: Path, monkeypatch
):
    command = words("fedavg", tiny_split.folder, tmp_path, *less)
    with monkeypatch.context() as patch:
        patch.setattr("fedllm_bench.pipeline.stages.train", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
    folder = folder_of("fedavg", tmp_path)
    written = {name: (folder / name).read_text() for name in ("plan.json", "environment.json", "config.json")}
    monkeypatch.setattr(hardware, "num_threads", lambda: 2)
    used: list[int] = []
    monkeypatch.setattr("fedllm_bench.runs.loading.torch.set_num_threads", used.append)
    assert cli.main(command) == 0
    assert set(used) == {1}
    assert {name: (folder / name).read_text() for name in written} == written
    assert files.read_json(folder / "seconds.json")["train"] > 0


def test_what_a_killed_session_was_writing_is_swept_away(
    undisturbed: dict[str, Any], tiny_split: Split, less: tuple[str, ...], tmp_path: Path
):
    command = words("fedavg", tiny_split.folder, tmp_path, *less)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedllm_bench.pipeline.stages.score_after", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
    folder = folder_of("fedavg", tmp_path)
    (folder / "adapter.999999.part").mkdir()
    (folder / "adapter.999999.part" / "adapter_config.json").write_text("{")
    (folder / "scores" / "heldout.after.jsonl.part").write_text("{")
    assert cli.main(command) == 0
    assert not list(folder.rglob("*.part"))
    assert outcome(folder) == undisturbed
