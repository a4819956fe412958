"""From records to evaluation.json: every metric, its views, coverage, and numbers against an own computation."""

from __future__ import annotations

from dataclasses import fields
from statistics import fmean

import numpy as np
import pytest
from checkout import ROOT
from evaluation_records import (
    CATEGORIES,
    evaluate,
    judgements_of,
    plain_prompts,
    ref_prompts,
    write_answers,
    write_judgements,
    write_mt_bench,
    write_prompts,
)

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS, open_metrics
from fedllm_bench.evaluation.scoring.evaluation_json import (
    BenchmarkResult,
    Change,
    EvaluationResults,
    EvaluationSettings,
    JudgeResult,
    MetricResult,
    PairResult,
    SideEstimate,
    ViewResult,
    read_evaluation,
    write_evaluation,
)

BENCHMARKS = {"mt_bench", "vicuna_bench", "advbench", "harmless", "ref_gpt4", "heldout_ref", "mini"}


def means(evaluation, metric, side="global"):
    return {name: view.sides[side].mean for name, view in evaluation.metrics[metric].views.items()}


def test_every_metric_scores_what_is_there_and_says_no_judge_where_none_was(tmp_path):
    assert {metric.benchmark for metric in OPEN_METRICS.values()} == BENCHMARKS
    assert len(OPEN_METRICS) == 26
    for benchmark in BENCHMARKS:
        prompts = ref_prompts({"English": 3, "Telugu": 3})
        write_prompts(tmp_path, benchmark, prompts)
        for side in ("base", "global", "client-a", "client-b"):
            write_answers(tmp_path, benchmark, side, prompts, lambda p, turn: "I'm sorry, but I can't help with that.")
    evaluation = evaluate(tmp_path)
    assert list(evaluation.metrics) == list(OPEN_METRICS)
    for name, entry in evaluation.metrics.items():
        sides = (
            ["client-a", "client-b"]
            if name.endswith("_between_clients")
            else ["base", "global", "client-a", "client-b"]
        )
        assert list(entry.views["mean"].sides) == sides
        assert list(entry.views["mean"].differences) == [side for side in sides[1:] if sides[0] == "base"]
        side = entry.views["mean"].sides[sides[-1]]
        missing = "no judge" if entry.needs_judge else "no embedding model; give --embedding-model"
        if entry.needs_judge or name.endswith(("_embedding", "_spread", "_own_rows")):
            assert (side.mean, side.coverage, side.unscored) == (None, "0/6", {missing: 6})
            assert side.refused == f"unscored: {missing}"
        else:
            assert (side.coverage, side.refused) == ("6/6", "")
            assert entry.low <= side.ci_low <= side.mean <= side.ci_high <= entry.high


def test_mt_bench_equals_an_own_computation_to_the_last_digit(tmp_path):
    prompts = write_mt_bench(tmp_path, {"base": 6.5, "global": 7.25})
    entry = evaluate(tmp_path).metrics["mt_bench@stub"]
    first = [7.25 + int(p.item_id) % 3 - 1 for p in prompts]
    second = [7.25 + int(p.item_id) % 3 - 2 for p in prompts]
    sides = {name: view.sides["global"] for name, view in entry.views.items()}
    assert sides["turn_1"].mean == fmean(first)
    assert sides["turn_2"].mean == fmean(second)
    assert sides["mean"].mean == fmean(first + second)
    for i, category in enumerate(CATEGORIES):
        part = slice(10 * i, 10 * i + 10)
        assert sides[f"category_{category}"].mean == pytest.approx(fmean(first[part] + second[part]), abs=1e-12)
    assert len(sides) == 3 + 8
    assert (sides["mean"].interval, sides["category_math"].interval) == ("t_skew", "t_skew")  # 80 and 10 questions
    change = entry.views["mean"].differences["global"]
    assert change.mean == pytest.approx(0.75, abs=1e-12)
    assert change.significant
    assert (entry.judge, entry.benchmark, entry.version) == ("stub", "mt_bench", "2")


def test_with_one_reply_lost_the_coverage_is_79_of_80_and_the_mean_is_refused(tmp_path):
    prompts = write_mt_bench(tmp_path, {"base": 6.5, "global": 7.25})
    whole = means(evaluate(tmp_path), "mt_bench@stub")["mean"]
    told = judgements_of(prompts, lambda p, turn: f"[[{7.25 + int(p.item_id) % 3 - turn}]]")
    write_judgements(tmp_path, "mt_bench", "global", told[:-1])  # the second turn of the last question
    entry = evaluate(tmp_path).metrics["mt_bench@stub"]
    side = entry.views["mean"].sides["global"]
    assert (side.mean, side.ci_low, side.interval) == (None, None, "none")
    assert (side.coverage, side.n_scored, side.n_unscored) == ("79/80", 79, 1)
    assert side.refused == "coverage 79/80 is below the limit of 100%"
    assert side.unscored == {"no judge": 1}
    assert side.bounds[0] < whole < side.bounds[1]
    assert side.bounds[1] - side.bounds[0] == pytest.approx(9 / 80)
    assert entry.views["turn_1"].sides["global"].coverage == "80/80"
    assert entry.views["turn_2"].sides["global"].refused
    assert entry.views["category_writing"].sides["global"].mean is not None
    change = entry.views["mean"].differences["global"]
    assert (change.mean, change.coverage, change.significant) == (None, "79/80", None)


def test_a_lower_limit_lets_a_mean_rest_on_fewer_questions_and_still_says_so(tmp_path):
    prompts = write_mt_bench(tmp_path, {"base": 6.5, "global": 7.25})
    told = judgements_of(prompts, lambda p, turn: f"[[{7.25 + int(p.item_id) % 3 - turn}]]")
    write_judgements(tmp_path, "mt_bench", "global", told[:-1])
    view = evaluate(tmp_path, min_coverage=0.95).metrics["mt_bench@stub"].views["mean"]
    expected = fmean(7.25 + int(p.item_id) % 3 - 1.5 for p in prompts[:-1])
    assert view.sides["global"].mean == pytest.approx(expected, abs=1e-12)
    assert view.sides["global"].coverage == "79/80"
    assert view.differences["global"].mean == pytest.approx(0.75, abs=1e-12)  # of the 79 that both have
    assert not evaluate(tmp_path, min_coverage=0.99).metrics["mt_bench@stub"].views["mean"].sides["global"].mean


def test_two_judges_are_two_entries(tmp_path):
    prompts = write_mt_bench(tmp_path, {"base": 6.0})
    told = judgements_of(prompts, lambda p, turn: "[[3]]")
    write_judgements(tmp_path, "mt_bench", "base", told, judge="other-judge")
    evaluation = evaluate(tmp_path)
    assert list(evaluation.metrics) == ["mt_bench@other-judge", "mt_bench@stub"]
    assert means(evaluation, "mt_bench@other-judge", "base")["mean"] == 3
    assert evaluation.judges["stub"].num_replies == 160
    assert evaluation.judges["stub"].price == pytest.approx(0.16)
    assert evaluation.judges["stub"].models == ("stub-1",)


def test_ref_gpt4_is_a_mean_over_languages_with_the_plain_mean_beside_it(tmp_path):
    prompts = ref_prompts({"English": 6, "Telugu": 2})
    right = {"English": 0.0, "Telugu": 1.0}
    write_prompts(tmp_path, "ref_gpt4", prompts)
    for side in ("base", "global"):
        write_answers(
            tmp_path, "ref_gpt4", side, prompts, lambda p, turn: p.references[0] if right[p.language] else "no"
        )
    entry = evaluate(tmp_path).metrics["ref_gpt4_rouge_l"]
    sides = {name: view.sides["global"].mean for name, view in entry.views.items()}
    assert sides == {"mean": 0.5, "plain_mean": 0.25, "language_English": 0.0, "language_Telugu": 1.0}
    assert entry.views["mean"].estimator == "mean over languages of the mean over questions"
    assert entry.views["plain_mean"].estimator == "mean over questions"
    assert entry.views["mean"].differences["global"].mean == 0


def test_a_mean_over_languages_with_holes_is_one_of_what_is_scored_on_both_sides(tmp_path):
    prompts = ref_prompts({"English": 4, "Telugu": 2})
    write_prompts(tmp_path, "ref_gpt4", prompts)
    write_answers(tmp_path, "ref_gpt4", "base", prompts, lambda p, turn: "no")
    write_answers(tmp_path, "ref_gpt4", "global", prompts[1:], lambda p, turn: p.references[0])
    view = evaluate(tmp_path, min_coverage=0.5).metrics["ref_gpt4_rouge_l"].views["mean"]
    assert (view.sides["global"].mean, view.sides["global"].coverage) == (1.0, "5/6")
    assert (view.differences["global"].mean, view.differences["global"].coverage) == (1.0, "5/6")
    # one of four English questions missing: (3/4 + 1) / 2 at the worst
    assert view.sides["global"].bounds == pytest.approx((0.875, 1.0))


def test_embedding_similarity_carries_the_model_in_its_version(tmp_path):
    prompts = ref_prompts({"English": 3})
    write_prompts(tmp_path, "ref_gpt4", prompts)
    write_answers(tmp_path, "ref_gpt4", "base", prompts, lambda p, turn: "x")
    metrics = open_metrics(lambda texts: np.ones((len(texts), 1), dtype=np.float32), "my-encoder")
    entry = evaluate(tmp_path, metrics=metrics, embedding_model="my-encoder").metrics["ref_gpt4_embedding"]
    assert (entry.version, entry.views["mean"].sides["base"].mean) == ("2+my-encoder", 1.0)


def test_a_share_of_all_or_none_has_an_exact_interval_of_some_width(tmp_path):
    prompts = plain_prompts(520)
    write_prompts(tmp_path, "advbench", prompts)
    write_answers(tmp_path, "advbench", "base", prompts, lambda p, turn: "I cannot help with that.")
    write_answers(tmp_path, "advbench", "global", prompts, lambda p, turn: "Sure." if int(p.item_id) % 4 else "Sorry.")
    sides = evaluate(tmp_path).metrics["advbench"].views["mean"].sides
    assert (sides["base"].mean, sides["base"].interval, sides["base"].ci_high) == (1, "exact", 1)
    assert sides["base"].ci_low == pytest.approx(0.025 ** (1 / 520))  # Clopper and Pearson, by hand
    assert (sides["global"].mean, sides["global"].interval) == (0.25, "share")
    write_answers(tmp_path, "advbench", "global", prompts, lambda p, turn: "Sorry.")
    change = evaluate(tmp_path).metrics["advbench"].views["mean"].differences["global"]
    assert (change.mean, change.interval, change.significant) == (0, "exact", False)
    assert change.ci_high == -change.ci_low == pytest.approx(1 - 0.025 ** (1 / 520))


def test_the_page_of_the_docs_names_every_metric_and_key():
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    kinds = (
        EvaluationResults,
        EvaluationSettings,
        BenchmarkResult,
        JudgeResult,
        MetricResult,
        ViewResult,
        SideEstimate,
        Change,
    )
    kinds += (PairResult,)
    names = {field.name for kind in kinds for field in fields(kind)} | OPEN_METRICS.keys()
    assert len(names) > 50
    assert {name for name in names if f"`{name}`" not in text} == set()


def test_evaluation_json_is_read_as_written_and_refused_when_changed(tmp_path):
    write_mt_bench(tmp_path, {"base": 6.0, "global": 7.0})
    evaluation = evaluate(tmp_path)
    path = tmp_path / "evaluation.json"
    write_evaluation(path, evaluation)
    assert read_evaluation(path) == evaluation
    assert evaluate(tmp_path) == evaluation
    payload = files.read_json(path)
    for change in ({"schema_version": 1}, {"extra": 1}, {"metrics": {"x": {}}}):
        files.write_json(path, payload | change)
        with pytest.raises(UserError, match=r"no evaluation\.json of version 4 .*fedllm-bench report"):
            read_evaluation(path)
