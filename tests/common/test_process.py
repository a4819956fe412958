"""Variables of other programs: they break no command, change no number and print nothing of libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib.style
import numpy as np
import pytest
from checkout import ROOT
from matplotlib.figure import Figure

from fedllm_bench import cli
from fedllm_bench.common import process
from fedllm_bench.common.errors import UserError
from fedllm_bench.diversity.embedding.lsa import _computed
from fedllm_bench.report.figures import loss_over_rounds
from fedllm_bench.report.style import legend_below

# what a run, its figures and a quantised base load, and the variables that decide how
LOADING = """
import os
from fedllm_bench.common import process
process.warnings_as_usual()
process.prepare()
import peft, sentence_transformers, torch, transformers
import fedllm_bench.pipeline.results_stage, fedllm_bench.training.trl, fedllm_bench.diversity.report
from fedllm_bench.report.diversity import drawing
import bitsandbytes.backends.cpu.ops
print(os.environ["GOMP_SPINCOUNT"], "and all is loaded")
"""
BREAKS_AN_IMPORT = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MATPLOTLIBRC": "latin1",  # a file that is not UTF-8
    "MPLCONFIGDIR": "/proc/nowhere",
    "PYTHONWARNINGS": "error",
    "HF_HUB_ENABLE_HF_TRANSFER": "1",
    **dict.fromkeys(process.VERBOSITIES, "foo"),
}


def loaded_with(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value for name, value in os.environ.items() if name not in {*process.SPINNING, *BREAKS_AN_IMPORT}
    }
    words = [sys.executable, "-c", LOADING]
    return subprocess.run(
        words, cwd=folder, env={**inherited, **variables}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_nothing_is_said_and_nothing_breaks_under_the_variables_of_other_programs(tmp_path: Path):
    """A notebook's MPLBACKEND, for one; and bitsandbytes' line of kernels, which PEFT's import prints."""
    (tmp_path / "latin1").write_bytes("# café\nbackend: inline\n".encode("latin-1"))
    found = loaded_with(tmp_path, **BREAKS_AN_IMPORT)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"{process.SPINNING['GOMP_SPINCOUNT']} and all is loaded\n"


@pytest.mark.parametrize("backend", ["inline", "Qt4Agg", "", "TkAgg"])
def test_no_backend_of_the_user_is_read(backend: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MPLBACKEND", backend)
    monkeypatch.setenv("MATPLOTLIBRC", "/nowhere")
    process.prepare()
    assert os.environ["MPLBACKEND"] == "agg"
    assert Path(os.environ["MATPLOTLIBRC"]).is_file()


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_a_users_own_way_of_waiting_is_kept(own: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    for name in process.WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    process.prepare()
    assert {name: os.environ[name] for name in process.WAITING & os.environ.keys()} == own


@pytest.mark.parametrize("name", process.NUMBERS)
def test_a_variable_that_is_no_number_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv(name, "ten")
    assert cli.main(["bench", "aya", "fedavg", "--explain"]) == 2
    assert capsys.readouterr().err == (
        f"fedllm-bench: the environment variable {name}='ten' is not a number; unset it, or give one\n"
    )
    for good in ("", "10"):
        monkeypatch.setenv(name, good)
        process.prepare()


@pytest.mark.parametrize("name", process.VERBOSITIES)
def test_a_level_that_is_none_is_not_passed_on(name: str, monkeypatch: pytest.MonkeyPatch):
    """The library would print a line that begins with "Unknown option"."""
    monkeypatch.setenv(name, "foo")
    process.prepare()
    assert os.environ.get(name) == process.QUIET.get(name)
    monkeypatch.setenv(name, "debug")
    process.prepare()
    assert os.environ[name] == "debug"


def test_code_of_the_hub_counts_as_not_installed():
    """Under a process that is prepared: bitsandbytes would fetch and run it at import."""
    from importlib.util import find_spec

    process.prepare()
    assert find_spec("kernels") is None
    with pytest.raises(ImportError):
        import kernels  # noqa: F401


def test_only_what_must_be_started_anew_is(monkeypatch: pytest.MonkeyPatch):
    for name in process.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    assert process.variables_of_a_restart(training=False) is None
    assert process.variables_of_a_restart(training=True) == {**os.environ, **process.ALLOCATOR}
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert process.variables_of_a_restart(training=True) is None


@pytest.mark.parametrize("level", ["2", "1"])
def test_a_process_without_docstrings_is_started_with_them(level: str, tmp_path: Path):
    """transformers reads docstrings while a model is loaded."""
    words = [
        sys.executable,
        "-c",
        "from fedllm_bench.common import process; print(process.variables_of_a_restart(False))",
    ]
    env = {"PATH": os.environ["PATH"], "PYTHONOPTIMIZE": level, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert (found.stdout == "None\n") == (level == "1")
    assert "PYTHONOPTIMIZE" not in found.stdout


# --- warnings of libraries about our own numbers


def test_a_figure_without_a_loss_has_no_legend_and_no_warning(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(loss_over_rounds([{"round": 1, "losses": [None, None]}], [], tmp_path)) == 2
    with matplotlib.style.context("default"):
        figure = Figure()
        axes = figure.add_subplot()
        assert legend_below(figure) is None
        axes.plot([1, 2], label="a line")
        assert legend_below(figure) is not None


@pytest.mark.parametrize("texts", [["the same prompt"] * 30, ["alone"], ["?", "?"], ["", " "]])
def test_equal_texts_have_vectors_without_a_warning(texts: list[str]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vectors = _computed(texts, seed=0)
    assert np.isfinite(vectors).all()
    assert len(vectors) == len(texts)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_MIXED_PRECISION", "PMI_SIZE"])
def test_variables_of_a_launcher_are_not_passed_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under WORLD_SIZE=2 the engine trl would wait for a process that nobody starts."""
    monkeypatch.setenv(name, "2")
    process.prepare()
    assert name not in os.environ


def test_a_matplotlibrc_in_the_current_folder_that_is_no_text_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="matplotlibrc is not UTF-8"):
        process.prepare()
