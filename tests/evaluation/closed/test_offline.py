"""Each closed benchmark runs end to end on made rows in its upstream's columns, through lm-eval itself.

Only the loading of the data set is replaced: prompts, shots, filters, scores and means are those of the task files.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import datasets
import pytest
from closed_models import RuleModel
from closed_rows import HOSTILE, MADE, load_dataset
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from fedllm_bench.evaluation.closed import tasks
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, closed_benchmarks

RUN = [name for name, benchmark in closed_benchmarks().items() if not benchmark.needs_code]
BEST = {"conala_bleu": 100, "concode_bleu": 100}  # sacrebleu's scale
WORST_IS_BEST = ("_unparsable",)


@pytest.fixture(autouse=True)
def made_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def manager(benchmark: ClosedBenchmark) -> TaskManager:
    package = importlib.util.find_spec("lm_eval")
    assert package is not None
    assert package.origin is not None
    theirs = Path(package.origin).parent / "tasks" / benchmark.folder
    folder = theirs if benchmark.folder else tasks.FOLDER
    return TaskManager(include_path=str(folder), include_defaults=False)


def run(name: str, *, perfect: bool) -> tuple[dict[str, Any], RuleModel]:
    benchmark = closed_benchmarks()[name]
    model = RuleModel(MADE[benchmark.data].says, perfect=perfect)
    results = simple_evaluate(
        model=model,
        tasks=list(benchmark.task),
        num_fewshot=benchmark.shots,
        task_manager=manager(benchmark),
        bootstrap_iters=0,
    )
    assert results is not None
    return results, model


def scores(results: dict[str, Any], value: str, default: str) -> dict[str, float]:
    """Of each task that has items. `value` is "metric", or "metric,filter"."""
    metric, _, chosen = value.partition(",")
    key = f"{metric},{chosen or default}"
    return {task: results["results"][task][key] for task in results["samples"]}


@pytest.mark.parametrize("name", RUN)
def test_a_model_that_is_always_right_scores_1(name: str) -> None:
    benchmark = closed_benchmarks()[name]
    results, model = run(name, perfect=True)
    assert set(scores(results, benchmark.metric, benchmark.filter).values()) == {1}
    for also, value in benchmark.also.items():
        best = 0 if also.endswith(WORST_IS_BEST) else BEST.get(also, 1)
        assert all(got == pytest.approx(best) for got in scores(results, value, benchmark.filter).values()), also
    _check_shots(benchmark, model)
    assert any(hostile in asked for asked in model.seen for hostile in HOSTILE) or name == "hellaswag"


def _check_shots(benchmark: ClosedBenchmark, model: RuleModel) -> None:
    """No prompt holds more questions than its shots and itself."""
    for asked in model.seen:
        assert sum(mark in asked for mark in model.says) <= benchmark.shots + 1


@pytest.mark.parametrize("name", RUN)
def test_a_model_that_says_nothing_or_the_wrong_thing_scores_0(name: str) -> None:
    """But for the published rules of finance, which call an empty answer neutral."""
    benchmark = closed_benchmarks()[name]
    results, _ = run(name, perfect=False)
    got = scores(results, benchmark.metric, benchmark.filter)
    if benchmark.filter == "published":
        (task,) = benchmark.task
        rights = [sample["target"] for sample in results["samples"][task] if sample["filter"] == "published"]
        assert got[task] == pytest.approx(rights.count("neutral") / len(rights))
        assert 0 < rights.count("neutral") < len(rights)
        assert set(scores(results, "acc", "strict").values()) == {0}
        assert set(scores(results, "unparsable", "strict").values()) == {1}
    else:
        assert set(got.values()) == {0}
