"""Samples become evaluation.json: numbers from the records, with intervals, and what lm-eval says otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
from closed_records import choice, made, right_or_wrong, text, write_closed

from fedllm_bench.common import files
from fedllm_bench.evaluation.closed.closed_folder import read_closed
from fedllm_bench.evaluation.closed.closed_scoring import closed_notes, closed_results, score_closed
from fedllm_bench.evaluation.scoring.evaluation_json import read_evaluation
from fedllm_bench.evaluation.scoring.score_all import ScoringOptions, evaluation_of

HALF = [i % 2 == 0 for i in range(100)]
RIGHT = ["up", "down", "up", "side"]
MOST = [i % 5 != 0 for i in range(100)]  # 30 more right than HALF by 40 won and 10 lost


def evaluate(folder):
    closed = read_closed(folder)
    return evaluation_of({}, score_closed(closed), ScoringOptions(), closed_results(closed))


def test_the_mean_has_a_binomial_interval_and_the_change_is_paired(tmp_path):
    write_closed(tmp_path, "medqa", **{"base": right_or_wrong(HALF), "global": right_or_wrong(MOST)})
    found = evaluate(tmp_path)
    (view,) = found.metrics["medqa"].views.values()
    base, change = view.sides["base"], view.differences["global"]
    assert (base.mean, base.interval, base.n_scored) == (0.5, "share", 100)
    assert (view.sides["global"].mean, round(change.mean, 12)) == (0.8, 0.3)
    assert change.significant
    apart = (0.5 * 0.5 / 100 + 0.8 * 0.2 / 100) ** 0.5 * 1.96  # half the interval of two samples that are not paired
    assert (change.ci_high - change.ci_low) / 2 == pytest.approx(apart, rel=0.3)
    assert (found.metrics["medqa"].kind, found.benchmarks["medqa"].num_prompts) == ("closed", 100)


def test_each_task_of_a_benchmark_is_a_category(tmp_path):
    samples = [*right_or_wrong([True] * 4, "mmlu_law"), *right_or_wrong([False] * 6, "mmlu_art")]
    write_closed(tmp_path, "mmlu", base=samples)
    views = evaluate(tmp_path).metrics["mmlu"].views
    assert {name: view.sides["base"].mean for name, view in views.items()} == {
        "mean": 0.4,
        "category_mmlu_art": 0.0,
        "category_mmlu_law": 1.0,
    }


def test_f1_and_bleu_are_of_the_set_and_have_intervals(tmp_path):
    from fedllm_bench.evaluation.closed.measures import MEASURES
    from fedllm_bench.evaluation.scoring.estimates import ScoreRules, change, side_estimate
    from fedllm_bench.evaluation.scoring.views import views_of

    def view(name, said):
        metric = MEASURES[name].metric("fpb", f"fpb_{name}")
        scores = [
            MEASURES[name].of(text(i, answer, ["up", "down", "up", "side"][i % 4])) for i, answer in enumerate(said)
        ]
        scores = [replace(score, cluster=score.item_id) for score in scores]
        rules = ScoreRules(low=0, high=metric.high, min_coverage=1.0, is_together=True)
        return views_of(scores, metric)[0], scores, rules

    for name, whole in (("macro_f1", 1.0), ("bleu", 0.0)):
        (one, right, rules), (_, wrong, _) = view(name, RIGHT * 9), view(name, ["up"] * 36)
        best = side_estimate(one.of(right), one.estimator, rules)
        assert best.mean == pytest.approx(whole)
        assert best.bounds is None
        moved = change(one.of(right), one.of(wrong), one.estimator, rules)
        assert moved.mean == pytest.approx(best.mean - side_estimate(one.of(wrong), one.estimator, rules).mean)
        assert name == "bleu" or moved.ci_low > 0


def test_an_item_that_one_side_lacks_is_unscored_there(tmp_path):
    write_closed(tmp_path, "medqa", **{"base": right_or_wrong(HALF), "global": right_or_wrong(HALF[:99])})
    view = evaluate(tmp_path).metrics["medqa"].views["mean"]
    assert view.sides["global"].refused == "coverage 99/100 is below the limit of 100%"
    assert view.sides["global"].unscored == {"no answer of this side": 1}
    assert view.sides["global"].bounds == (0.5, 0.51)
    assert view.differences["global"].mean is None


def test_a_side_with_other_prompts_has_a_mean_and_no_difference(tmp_path):
    other = [replace(sample, prompt_hash="with a template") for sample in right_or_wrong(MOST)]
    write_closed(tmp_path, "medqa", **{"base": right_or_wrong(HALF), "global": other})
    view = evaluate(tmp_path).metrics["medqa"].views["mean"]
    assert (view.sides["global"].mean, view.differences) == (0.8, {})


def test_what_lm_eval_made_otherwise_is_said_with_an_example(tmp_path):
    samples = right_or_wrong(HALF)
    samples[3] = replace(samples[3], values={"acc": 1.0})
    write_closed(tmp_path, "medqa", base=right_or_wrong(HALF), **{"global": samples})
    assert closed_notes(read_closed(tmp_path)) == [
        "medqa, global: 1 of 100 items has another value than lm-eval gave, as t/3: 0, and lm-eval 1; the numbers here "
        "follow from the records"
    ]
    assert evaluate(tmp_path).metrics["medqa"].views["mean"].sides["global"].mean == 0.5


def test_running_text_is_weighed_by_its_bytes(tmp_path):
    def one(i, bits, num_bytes):
        return made(i, form="rolling", target="", log_likelihoods=(-bits * 0.6931471805599453,), lengths=(1, num_bytes))

    write_closed(tmp_path, "some_text", base=[one(0, 8, 8), one(1, 60, 20), one(2, 5, 10)])
    found = evaluate(tmp_path).metrics["some_text"]
    estimate = found.views["mean"].sides["base"]
    assert estimate.mean == pytest.approx(73 / 38)
    assert (found.high, found.views["mean"].estimator, estimate.interval) == (None, "mean over bytes", "t_skew")


def test_the_file_is_read_as_written_and_those_of_before_still_are(tmp_path):
    from fedllm_bench.evaluation.scoring.evaluation_json import write_evaluation

    write_closed(tmp_path, "medqa", base=[choice(0, (-1.0, -2.0), 0), choice(1, (-1.0, -2.0), 0)])
    path = tmp_path / "evaluation.json"
    write_evaluation(path, evaluate(tmp_path))
    assert read_evaluation(path) == evaluate(tmp_path)
    old = files.read_json(path) | {"schema_version": 3}
    del old["metrics"]["medqa"]["kind"]
    files.write_json(path, old)
    assert read_evaluation(path).metrics["medqa"].kind == "open"
