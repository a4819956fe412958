"""`fedllm-bench bench` end to end at tiny size, in this process but for what needs another one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import TINY, folder_of, outcome, quiet_environment, run, words

import fedllm_bench
from fedllm_bench import cli, files, models, presets, provenance
from fedllm_bench.cell import Cell
from fedllm_bench.commands import bench
from fedllm_bench.data.manifest import Split
from fedllm_bench.methods import METHODS
from fedllm_bench.metrics.registry import METRICS
from fedllm_bench.report.schema import check_results

NO_FIGURES = "fedllm_bench.report.run._draw"


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "num_threads", lambda: 1)
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take half of a tiny run."""
    monkeypatch.setattr(NO_FIGURES, lambda *args: [])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def done(tiny_split: Split, out: Path) -> Path:
    """The folder of a finished run of FedAvg with all metrics and figures."""
    return run("fedavg", tiny_split.folder, out)


@pytest.fixture(scope="module")
def less(tiny_folder: Path) -> tuple[str, ...]:
    """Options for runs that take half a second: a smaller model, two of the metrics."""
    return ("--model", str(tiny_folder), "--metrics", "heldout,mini_choice")


@pytest.fixture(scope="module")
def undisturbed(tiny_split: Split, less: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run from an empty cache, without figures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NO_FIGURES, lambda *args: [])
        patch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return outcome(run("fedavg", tiny_split.folder, tmp_path_factory.mktemp("runs"), *less))


# --- one process at a time, and after a failure


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
    ("fedllm_bench.stages.score_base", 1),
    ("fedllm_bench.stages.train", 1),
    ("fedllm_bench.training.rounds._one_round", 2),
    ("fedllm_bench.training.rounds.save_server", 2),
    ("fedllm_bench.stages.save_adapter", 1),
    ("fedllm_bench.stages.score_after", 1),
    ("fedllm_bench.scoring._score_file", 9),
    ("fedllm_bench.stages.score_local", 1),
    ("fedllm_bench.training.rounds._one_round", 4),  # in the baseline
    ("fedllm_bench.stages.save_adapter", 3),
    ("fedllm_bench.stages.write_report", 1),  # of the baseline
    ("fedllm_bench.stages.write_report", 2),
    ("fedllm_bench.report.run.write_results", 2),
]


@pytest.mark.parametrize(("where", "call"), FAULTS, ids=[f"{where[13:]}-{call}" for where, call in FAULTS])
@pytest.mark.usefixtures("no_figures")
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


@pytest.mark.usefixtures("no_figures")
def test_a_resumed_run_keeps_the_plan_of_its_first_session(
    tiny_split: Split, less: tuple[str, ...], tmp_path: Path, monkeypatch
):
    command = words("fedavg", tiny_split.folder, tmp_path, *less)
    with monkeypatch.context() as patch:
        patch.setattr("fedllm_bench.stages.train", lambda bench: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main(command)
    folder = folder_of("fedavg", tmp_path)
    written = {name: (folder / name).read_text() for name in ("plan.json", "environment.json", "config.json")}
    monkeypatch.setattr(bench, "num_threads", lambda: 2)
    used: list[int] = []
    monkeypatch.setattr("fedllm_bench.setup.torch.set_num_threads", used.append)
    assert cli.main(command) == 0
    assert set(used) == {1}
    assert {name: (folder / name).read_text() for name in written} == written
    assert files.read_json(folder / "seconds.json")["train"] > 0
