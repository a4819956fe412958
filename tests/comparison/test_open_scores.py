"""Open-ended answers compared: two models over questions, under one judge, on the same prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import code_of
from evaluation_records import (
    judgements_of,
    mt_bench_prompts,
    plain_prompts,
    write_answers,
    write_judgements,
    write_prompts,
)
from scored_folders import of_units, write_run

from fedllm_bench import cli
from fedllm_bench.comparison.open_scores import from_answers
from fedllm_bench.comparison.run_scores import load_run, load_scores


def write_graded(folder: Path, rating: int, *, side: str = "global", judge: str = "stub", lost: int = 0) -> Path:
    """MT-Bench, rated `rating` and up to two more by question, one less in second turns; `lost` replies are missing."""
    prompts = mt_bench_prompts(80)
    write_prompts(folder, "mt_bench", prompts)
    write_answers(folder, "mt_bench", side, prompts, lambda p, turn: f"{p.item_id} {turn}")
    spread = 7 if rating > 4 else 5  # so that differences vary
    told = judgements_of(prompts, lambda p, turn: f"[[{rating + int(p.item_id) * spread % 3 - turn + 1}]]")
    write_judgements(folder, "mt_bench", side, told[lost:], judge)
    return folder


def shown(capsys, *words: object) -> str:
    assert cli.main(["compare", *map(str, words)]) == 0
    return " ".join(capsys.readouterr().out.split())


def refused(capsys, *words: object) -> str:
    assert code_of(["compare", *map(str, words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_two_models_are_compared_over_questions(tmp_path, capsys):
    a, b = write_graded(tmp_path / "a", 5), write_graded(tmp_path / "b", 4)
    text = shown(capsys, a, b)
    assert "These two models (items clustered by question" in text
    assert "mt_bench ↑ (judge stub): model A is better by" in text
    assert "at n = 80 questions" in text
    measured = load_run(a).measured["mt_bench"]
    assert (measured.judge, measured.cluster, measured.alike["settings of answers"]) == (
        "stub",
        "question",
        "as published",
    )
    assert len(load_scores(a)["mt_bench"]) == 160


def test_a_lost_reply_is_counted_on_both_sides(tmp_path, capsys):
    a, b = write_graded(tmp_path / "a", 5, lost=1), write_graded(tmp_path / "b", 4)
    assert "; 1 item without a score on one side in neither mean" in shown(capsys, a, b)


def test_other_judges_prompts_or_versions_are_refused(tmp_path, capsys):
    a, b = write_graded(tmp_path / "a", 5), write_graded(tmp_path / "b", 4, judge="other")
    assert "mt_bench cannot be compared, for its judge is stub in" in refused(capsys, a, b)
    c = write_graded(tmp_path / "c", 4)
    prompts = mt_bench_prompts(80)
    write_prompts(c, "mt_bench", [*prompts[:-1], plain_prompts(80)[-1]])
    for path in (c / "answers" / "mt_bench" / "global.jsonl", c / "judgements" / "stub" / "mt_bench" / "global.jsonl"):
        path.write_text("".join(line for line in path.open() if '"item_id":"160"' not in line))
    assert "prompts' hash is" in refused(capsys, a, c)
    d = write_graded(tmp_path / "d", 4)
    (d / "answers" / "mt_bench" / "plan.json").write_text(
        '{"benchmark": {"version": "9"}, "overrides": {"temperature": 1}}'
    )
    assert "benchmark version is none in" in refused(capsys, a, d)


def test_two_judges_of_one_folder_are_two_metrics(tmp_path):
    folder = write_graded(tmp_path / "a", 5)
    write_graded(folder, 5, judge="other")
    assert sorted(from_answers(folder)) == ["mt_bench@other", "mt_bench@stub"]


def test_of_a_run_the_trained_adapter_is_compared_beside_its_held_out_scores(tmp_path):
    folder = write_run(tmp_path / "run", {"heldout": of_units([1.0, 2.0])})
    write_graded(folder, 2, side="base")
    write_graded(folder, 5)
    scores = load_scores(folder)
    assert set(scores) == {"heldout", "mt_bench"}
    assert min(score.value for score in scores["mt_bench"] if score.group["turn"] == "1") == 5
    assert load_run(folder).seed == 0


def test_answers_without_a_judge_have_no_judged_metric(tmp_path, capsys):
    folder = tmp_path / "a"
    prompts = plain_prompts(30)
    write_prompts(folder, "vicuna_bench", prompts)
    write_answers(folder, "vicuna_bench", "base", prompts, lambda p, turn: "x")
    assert from_answers(folder) == {}
    assert "its answers have no scores yet; judge them first" in refused(capsys, folder, folder)


@pytest.mark.parametrize("sides", [("base", "client-a"), ("client-a", "client-b")])
def test_of_several_sides_without_a_global_one_none_is_compared(tmp_path, sides):
    for side in sides:
        write_graded(tmp_path / "a", 5, side=side)
    assert from_answers(tmp_path / "a") == {}
