"""Models that are none, profile paper, places that cannot be written, full disks and Ctrl-C."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import assert_refused, code_of, folder_of, outcome, quick, quiet_environment, words
from checkout import ROOT

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.diversity import report  # by a string it would be the function `fedllm_bench.diversity`


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick():
        yield


# --- models


def edit_config(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        config = files.read_json(folder / "config.json")
        files.write_json(folder / "config.json", {**config, **changes})

    return edit


def cut(name: str, keep: float) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return edit


BROKEN_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "no config.json"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{broken"), "not a valid JSON"),
    "config that is a list": (lambda folder: (folder / "config.json").write_text("[]"), "no causal language model"),
    "unknown architecture": (edit_config(model_type="nonsense"), "nonsense"),
    "impossible size": (edit_config(hidden_size=-1), "no causal language model"),
    "no heads": (edit_config(num_attention_heads=0), "no causal language model"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "weights cut short": (cut("model.safetensors", 0.9), "not fully covered"),
    "weights that are no weights": (cut("model.safetensors", 1e-5), "no causal language model"),
    "weights of fewer layers": (edit_config(num_hidden_layers=3), "9 weights are missing"),
    "weights of another width": (edit_config(hidden_size=48), "of another size"),
    "weights without the head": (edit_config(tie_word_embeddings=False), "lm_head.weight"),
    "tokenizer cut short": (cut("tokenizer.json", 0.5), "no tokenizer"),
    "tokenizer of another kind": (lambda folder: (folder / "tokenizer.json").write_text('{"model": {}}'), "MODEL="),
}


@pytest.mark.parametrize(("spoil", "expected"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_a_path_that_is_not_a_model_is_one_line(
    spoil, expected, tiny_folder: Path, tiny_split: Split, tmp_path: Path, capsys
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    spoil(folder)
    argv = words("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(folder))
    assert_refused(argv, tmp_path / "runs", capsys, "MODEL=", expected)


@pytest.mark.slow
def test_the_libraries_add_no_lines_of_their_own(tiny_folder: Path, tiny_split: Split, tmp_path: Path):
    """In a process of its own: here the libraries were loaded before the command could quiet them."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    edit_config(hidden_size=48)(folder)
    argv = words("fedavg", tiny_split.folder, tmp_path / "runs", "--model", str(folder))
    done = subprocess.run(
        [sys.executable, "-m", "fedllm_bench", *argv],
        capture_output=True,
        text=True,
        env=quiet_environment(files.cache_root()),
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "of another size" in done.stderr


# --- profile paper


def test_paper_says_one_line_for_each_thing_that_is_missing(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    argv = ["bench", "aya", "fedprox", "--profile", "paper", "--out", str(tmp_path / "runs")]
    assert code_of(argv) == 2
    head, gpu, model, split = capsys.readouterr().err.splitlines()
    assert "PROFILE=paper" in head
    assert "no CUDA GPU" in gpu
    assert "make bench DATASET=aya METHOD=fedprox PROFILE=small, or PROFILE=mini" in gpu
    assert "hf auth login" in model
    assert "MODEL=" in model
    assert "fedllm-bench data build aya" in split
    assert not (tmp_path / "runs").exists()


def test_paper_with_all_but_a_gpu_names_only_the_gpu(tiny_split: Split, tmp_path: Path, capsys):
    argv = ["bench", "aya", "fedprox", "--profile", "paper", "--model", "mini", "--split", str(tiny_split.folder)]
    assert code_of([*argv, "--out", str(tmp_path / "runs")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


# --- places that cannot be written, a full disk, Ctrl-C


def test_a_file_in_the_place_of_the_output_folder(tiny_split: Split, tmp_path: Path, capsys):
    (tmp_path / "runs").write_text("mine")
    assert_refused(words("fedavg", tiny_split.folder, tmp_path / "runs"), tmp_path, capsys, "cannot create the folder")
    assert (tmp_path / "runs").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_without_the_right_to_write(tiny_split: Split, tmp_path: Path, capsys):
    (tmp_path / "runs").mkdir(mode=0o555)
    assert_refused(words("fedavg", tiny_split.folder, tmp_path / "runs"), tmp_path, capsys, "cannot create the folder")


def small(tiny_folder: Path, split: Split, out: Path) -> list[str]:
    return words("fedavg", split.folder, out, "--model", str(tiny_folder), "--metrics", "heldout")


@pytest.fixture(scope="module")
def undisturbed(tiny_folder: Path, tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert code_of(small(tiny_folder, tiny_split, out)) == 0
    return outcome(folder_of("fedavg", out))


@pytest.mark.parametrize("writes", [3, 9, 14, 20])
def test_after_a_full_disk_the_results_so_far_stay_and_the_same_command_finishes(
    writes: int, tiny_folder: Path, tiny_split: Split, undisturbed, tmp_path: Path, capsys, monkeypatch
):
    argv = small(tiny_folder, tiny_split, tmp_path / "runs")
    monkeypatch.setenv("FEDLLM_BENCH_CACHE", str(tmp_path / "cache"))
    left = writes
    real = os.fsync

    def fsync(number: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(number)

    with monkeypatch.context() as patch:
        patch.setattr("fedllm_bench.common.files.os.fsync", fsync)
        assert code_of(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert "what is done is kept" in line
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl") if "rounds" not in path.name}
    assert not list(tmp_path.rglob("*.part"))
    assert code_of(argv) == 0
    assert kept.items() <= {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}.items()
    assert outcome(folder_of("fedavg", tmp_path / "runs")) == undisturbed


def test_a_folder_where_a_file_belongs_is_one_line(tmp_path: Path, capsys, monkeypatch):
    """Whoever writes it: no command looks for a folder of that name first."""
    place = tmp_path / "table.txt"
    place.mkdir()

    def write(*args: object) -> None:
        files.write_text(place, "x")

    monkeypatch.setattr("fedllm_bench.cli.plugins_of", write)
    assert code_of(["model", "list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Is a directory ({place}); what is done is kept: move it away" in line
    assert not list(tmp_path.glob("*.part"))


def test_ctrl_c_is_one_line_and_code_130(tiny_folder: Path, tiny_split: Split, tmp_path: Path, capsys, monkeypatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedllm_bench.training.rounds._one_round", interrupt)
    assert code_of(small(tiny_folder, tiny_split, tmp_path / "runs")) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "interrupted" in line
    assert "the same command goes on" in line


def test_other_errors_of_the_system_are_not_hidden(tiny_split: Split, tmp_path: Path, monkeypatch):
    """A bug must be seen with its traceback: only what a user can mend is turned into one line."""

    def broken(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fedllm_bench.pipeline.stages.run_cell", broken)
    with pytest.raises(OSError, match="Input/output"):
        cli.main(words("fedavg", tiny_split.folder, tmp_path))


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path):
    command = [sys.executable, "-m", "fedllm_bench", "bench", "aya", "fedavg", "--profile", "mini", "--explain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate()
    assert (process.returncode, err) == (0, b"")


# --- memory


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nmore"), "Tried to allocate 9 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "you tried 9 bytes"),
        (MemoryError(), "no more to be had"),
    ],
)
def test_out_of_memory_is_one_line_in_any_command(error: Exception, told: str, tmp_path: Path, capsys, monkeypatch):
    def build(*words: object) -> None:
        raise error

    monkeypatch.setattr(report, "build", build)
    assert code_of(["diversity", "mini-aya", "--only", "quantity", "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedllm-bench: out of memory (")
    assert told in line


def test_another_fault_of_torch_is_not_taken_for_it(tmp_path: Path, monkeypatch):
    def build(*words: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(report, "build", build)
    with pytest.raises(RuntimeError, match="mat1"):
        code_of(["diversity", "mini-aya", "--only", "quantity", "--out", str(tmp_path / "out")])
