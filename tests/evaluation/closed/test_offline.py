"""Each closed benchmark runs end to end on made rows in its upstream's columns, through lm-eval itself.

Only the loading of the data set is replaced: prompts, shots, filters, scores and means are those of the task files.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pytest
from closed_models import RuleModel
from closed_rows import HOSTILE, MADE, load_dataset
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from fedllm_bench.evaluation.answering.plan import PlanHead
from fedllm_bench.evaluation.closed import tasks
from fedllm_bench.evaluation.closed.closed_folder import ClosedMaterial
from fedllm_bench.evaluation.closed.closed_scoring import disagreements, score_closed
from fedllm_bench.evaluation.closed.collecting import samples_of
from fedllm_bench.evaluation.closed.declared import ClosedBenchmark, closed_benchmarks
from fedllm_bench.evaluation.scoring.views import views_of

SLOW = ("mmlu", "mmlu_fsllm")  # 57 tasks; mmlu_med is six of them
OWN_ROWS = "the mini world"  # made by the task itself: test_mini_tasks.py
NAMES = [name for name, one in closed_benchmarks().items() if not one.needs_code and one.data != OWN_ROWS]
RUN = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NAMES]
BEST = {"conala_bleu": 100, "concode_bleu": 100}  # sacrebleu's scale
WORST_IS_BEST = ("_unparsable",)


@pytest.fixture(autouse=True)
def made_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


@cache
def manager(folder: str) -> TaskManager:
    package = importlib.util.find_spec("lm_eval")
    assert package is not None
    assert package.origin is not None
    theirs = Path(package.origin).parent / "tasks" / folder
    return TaskManager(include_path=str(theirs if folder else tasks.FOLDER), include_defaults=False)


def run(name: str, *, perfect: bool) -> tuple[dict[str, Any], RuleModel]:
    """lm-eval's results, as its `simple_evaluate` makes them, which also looks through the machine it runs on; and the
    model that was asked. The scores of this suite follow from the samples alike."""
    benchmark = closed_benchmarks()[name]
    model = RuleModel(MADE[benchmark.data].says, perfect=perfect)
    loaded = manager(benchmark.folder).load(list(benchmark.task))
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") != 0:
            task.set_config(key="num_fewshot", value=benchmark.shots)
        task.set_fewshot_seed(seed=1234)
    results = evaluate(lm=model, task_dict=loaded, bootstrap_iters=0)
    assert results is not None
    check_ours(name, results, loaded["tasks"])
    return results, model


def scores(results: dict[str, Any], value: str, default: str) -> dict[str, float]:
    """Of each task that has items. `value` is "metric", or "metric,filter"."""
    metric, _, chosen = value.partition(",")
    key = f"{metric},{chosen or default}"
    return {task: results["results"][task][key] for task in results["samples"]}


def check_ours(name: str, results: dict[str, Any], loaded: dict[str, Any]) -> None:
    benchmark = closed_benchmarks()[name]
    samples = {one.item_id: one for one in samples_of(benchmark, results["samples"], loaded, {}, str)}
    material = ClosedMaterial(name=name, plan=PlanHead(), sides={"global": samples})
    assert disagreements(material) == []
    for one in score_closed({name: material}):
        given, theirs = {**benchmark.also, name: benchmark.metric}[one.key], results["n-samples"]
        view = views_of(one.sides["global"], one.metric)[0]
        values = [score.value for score in view.of(one.sides["global"])]
        expected = scores(results, given, benchmark.filter)
        whole = sum(theirs[task]["effective"] * value for task, value in expected.items()) / len(samples)
        assert None not in values, one.key
        assert sum(values) / len(values) == pytest.approx(whole), one.key


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
