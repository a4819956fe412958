"""The table of closed benchmarks: every line can be read, names are told apart, what is unknown is one line."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.benchmarks import BENCHMARKS
from fedllm_bench.evaluation.closed import declared
from fedllm_bench.evaluation.closed.declared import (
    OURS,
    ClosedBenchmark,
    closed_benchmarks,
    closed_groups,
    closed_named,
)

ASKED = (
    "mmlu",
    "bbh",
    "drop",
    "gsm8k",
    "math",
    "medqa",
    "medmcqa",
    "pubmedqa",
    "mmlu_med",
    "careqa",
    "humaneval",
    "mbpp",
)


def test_the_benchmarks_of_the_seed_systems_are_declared() -> None:
    assert len(closed_benchmarks()) >= 19
    assert set(ASKED) <= set(closed_benchmarks())
    assert all(benchmark.source and benchmark.data for benchmark in closed_benchmarks().values())


def test_no_name_stands_for_two_things() -> None:
    scores = [name for benchmark in closed_benchmarks().values() for name in (benchmark.name, *benchmark.also)]
    names = [*scores, *closed_groups(), *BENCHMARKS]
    assert len(names) == len(set(names))


def test_groups_have_benchmarks_that_exist() -> None:
    known = {*closed_benchmarks(), *BENCHMARKS}
    for members in closed_groups().values():
        assert set(members) <= known


@pytest.mark.parametrize("name", closed_benchmarks())
def test_a_task_of_lm_eval_lies_where_its_folder_says(name: str) -> None:
    """No file of lm-eval is executed: its tasks for code run programs when they are loaded."""
    benchmark = closed_benchmarks()[name]
    if not benchmark.folder:
        assert all(task.startswith(OURS) for task in benchmark.task)
        return
    package = importlib.util.find_spec("lm_eval")
    if package is None or package.origin is None:
        pytest.skip("lm-eval is not installed")
    folder = Path(package.origin).parent / "tasks" / benchmark.folder
    texts = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("**/*.yaml"))
    lines = {line.strip().replace('"', "") for line in texts.splitlines()}
    for task in benchmark.task:
        assert {f"task: {task}", f"group: {task}"} & lines
    assert f"dataset_path: {benchmark.data}" in _with_included(folder)


def _with_included(folder: Path) -> str:
    paths = [*folder.glob("**/*yaml*"), *folder.parent.glob("*yaml*")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths if path.is_file())


def test_a_group_is_its_members_once() -> None:
    names = [benchmark.name for benchmark in closed_named(["medqa", "openfedllm_medical"])]
    assert names[0] == "medqa"
    assert len(names) == len(set(names)) >= 4


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="no closed benchmark 'mmul'; did you mean 'mmlu'"):
        closed_named(["mmul"])


def test_without_lm_eval_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'fedllm-bench\[closed\]'"):
        declared.check_installed()


def test_a_line_with_an_unknown_key_is_refused() -> None:
    values = {"name": "a", "task": "a", "shot": 1, "shots": 1, "form": "choice", "metric": "acc", "data": "a"}
    with pytest.raises(ValueError, match="shot"):
        TypeAdapter(ClosedBenchmark).validate_python({**values, "source": "a"})
