"""The mini world as tasks of lm-eval: questions from its seed alone, asked, scored, reported and submitted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from bench_runs import quick
from submissions import codes, context, run_folders, submitted

import fedllm_bench as fb
from fedllm_bench.comparison.run_scores import load_run
from fedllm_bench.data.manifest import Split
from fedllm_bench.evaluation.closed.closed_samples import read_samples, samples_file
from fedllm_bench.evaluation.closed.declared import MINI_WORLD, closed_benchmarks, is_installed
from fedllm_bench.evaluation.closed.tasks.mini_world import document_hash, documents, questions
from fedllm_bench.leaderboard.checks import validate

needs_lm_eval = pytest.mark.skipif(not is_installed(), reason="lm-eval is not installed")


def test_questions_follow_from_the_seed_and_stand_once():
    asked = [row["question"] for row in questions(0)]
    assert len(asked) == len(set(asked)) > 400
    assert questions(0) != questions(1)
    questions.cache_clear()
    assert [row["question"] for row in questions(0)] == asked


def test_the_right_choice_is_the_answer_and_stands_anywhere():
    places = Counter(row["right"] for row in questions(0))
    assert all(row["choices"][row["right"]] == f" {row['answer']}" for row in questions(0))
    assert all(len(set(row["choices"])) == 4 for row in questions(0))
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 80


@needs_lm_eval
def test_lm_eval_reads_the_documents_of_the_world_that_is_named():
    from fedllm_bench.evaluation.closed.loading import load_tasks

    names = [name for name, one in closed_benchmarks().items() if one.data == MINI_WORLD]
    assert len(names) == 2
    for name in names:
        (task,) = load_tasks(closed_benchmarks()[name], None, {"world_seed": 3}).values()
        assert list(task.test_docs()) == list(questions(3))
    assert list(documents(3)["test"]) == list(questions(3))


@needs_lm_eval
@pytest.mark.slow
def test_a_mini_run_is_asked_scored_compared_and_submitted(tiny_split: Split, tmp_path: Path):
    with quick():
        (folder,) = run_folders(tiny_split, tmp_path / "runs", answers=False, seeds=(0,))
    found = fb.evaluate(folder, ["mini_closed_choice", "mini_closed_text"], progress=False)
    assert found.notes == ()  # lm-eval made the same of every item
    frame = found.to_pandas().set_index(["metric", "side"])
    asked = ("mini_closed_choice", "mini_closed_text")
    assert set(frame.index) == {(name, side) for name in asked for side in ("base", "global")}
    for (metric, side), row in frame.iterrows():
        samples = read_samples(samples_file(folder, metric, side))
        (name,) = samples[0].values
        assert row["mean"] == pytest.approx(sum(sample.values[name] for sample in samples) / len(samples))
        assert row["n_scored"] == len(samples) == len(questions(0))
        assert [sample.doc_hash for sample in samples] == [document_hash(row) for row in questions(0)]
    base = frame.loc["mini_closed_choice", "base"]
    assert base.ci_low < 0.25 < base.ci_high  # nothing of this world was in the pre-training
    assert "Closed benchmarks" in found.page.read_text(encoding="utf-8")
    assert set(asked) <= load_run(folder).measured.keys()
    report = validate.validate(submitted([folder], tmp_path / "board"), context(tiny_split))
    assert codes(report) == {"few-seeds"}, report.problems
