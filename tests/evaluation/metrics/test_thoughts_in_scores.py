"""Scores, judges and later turns read what a model said; records and the report keep its thoughts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluation_records import (
    answer_of,
    evaluate,
    judgements_of,
    ref_prompts,
    write_answers,
    write_judgements,
    write_prompts,
)

from fedllm_bench.evaluation import records
from fedllm_bench.evaluation.answering.journal import AnsweredTurn
from fedllm_bench.evaluation.answering.model_answers import conversation
from fedllm_bench.evaluation.judges.questions import Asker
from fedllm_bench.evaluation.judges.templates import MOST_CHARACTERS
from fedllm_bench.evaluation.metrics.own_user import Owners, OwnRows
from fedllm_bench.evaluation.metrics.refusals import refusal_scores, refuses, refuses_legacy
from fedllm_bench.evaluation.metrics.registry import OPEN_METRICS, open_metrics
from fedllm_bench.evaluation.records import Answer, Prompt
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.evaluation.thoughts import ENDED_WITHIN
from fedllm_bench.leaderboard.checks import writing
from fedllm_bench.report.page.write import write_evaluation_report

REFUSAL = "I'm sorry, but I can't help with that."
BENCHMARKS = ("advbench", "harmless", "ref_gpt4", "heldout_ref", "mini")
SIDES = ("base", "global", "client-a", "client-b")


def letters(texts):
    """A stand-in for a sentence encoder: how often each letter is there."""
    counts = np.array([[text.lower().count(letter) + 0.01 for letter in "abcdefgh"] for text in texts], np.float32)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def folder_of(path, around):
    """Four sides that answer every benchmark; `around` puts what they think beside what they say."""
    for benchmark in BENCHMARKS:
        prompts = ref_prompts({"English": 4})
        write_prompts(path, benchmark, prompts)
        for i, side in enumerate(SIDES):
            words = [REFUSAL, "right 1 answer", f"a b {i}", "c d"]
            write_answers(path, benchmark, side, prompts, lambda p, _, words=words: around(words[int(p.item_id[-1])]))
        told = judgements_of(prompts, lambda p, _: "Rating: [[3]]")
        write_judgements(path, benchmark, "global", told)
    return path


@pytest.mark.parametrize(
    "around",
    [
        lambda text: f"<think>a word that is right</think>\n\n{text}",
        lambda text: f"a word that is right\n</think>\n\n{text}",
        lambda text: f"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>{text}",
    ],
    ids=["tags", "opened by the template", "channels"],
)
def test_every_metric_scores_an_answer_as_if_it_held_no_thoughts(tmp_path, around):
    plain, thinking = folder_of(tmp_path / "plain", str), folder_of(tmp_path / "thinking", around)
    metrics = open_metrics(letters, "letters")
    found, expected = (evaluate(folder, metrics=metrics).metrics for folder in (thinking, plain))
    scored = [
        name
        for name, entry in expected.items()
        if entry.views["mean"].sides[list(entry.views["mean"].sides)[-1]].n_scored
    ]
    assert {entry.metric for entry in found.values()} == {
        m for m, of in OPEN_METRICS.items() if of.benchmark in BENCHMARKS
    }
    assert len(scored) >= 16
    assert found == expected


def test_own_rows_are_compared_with_what_was_said():
    prompt = Prompt(item_id="h", turns=("?",), language="English")
    owners = Owners(client_of={"h": "a"}, rows={("a", "English"): ["abc"], ("b", "English"): ["fgh"]})
    said, thought = (
        OwnRows(owners, letters)([prompt], {"h": answer_of(prompt, (text,))})
        for text in ("aabb", "<think>ggg</think>aabb")
    )
    assert said == thought
    assert said[0].value > 0


@pytest.mark.parametrize("metric", [name for name, of in OPEN_METRICS.items() if of.benchmark in BENCHMARKS])
def test_an_answer_that_ended_within_its_thought_is_unscored_with_that_reason(tmp_path, metric):
    prompts = ref_prompts({"English": 4})
    benchmark = OPEN_METRICS[metric].benchmark
    write_prompts(tmp_path, benchmark, prompts)
    for side in ("client-a", "client-b"):
        write_answers(tmp_path, benchmark, side, prompts, lambda p, _: "<think>no" if p.item_id[-1] == "0" else "yes")
        write_judgements(tmp_path, benchmark, side, judgements_of(prompts, lambda p, _: "[[3]]"))
    (entry,) = [
        one for one in evaluate(tmp_path, metrics=open_metrics(letters, "x")).metrics.values() if one.metric == metric
    ]
    side = entry.views["mean"].sides["client-a"]
    if metric.endswith("_own_rows"):  # without rows nothing is scored
        assert side.n_scored == 0
        return
    assert (side.coverage, side.mean) == ("3/4", None)
    assert [reason.removeprefix("no answer: ") for reason in side.unscored] == [ENDED_WITHIN]


def test_refusals_behind_thoughts_are_counted_under_both_rules():
    texts = {
        "0": "<think>\n\n</think>\n\nI'm sorry, but I can't help with that.",
        "1": "<think>They ask for harm; decline.</think>\n\nI can't assist with that.",
        "2": "<p>I'm sorry, but I can't help with that.</p>",
        "3": "I'm sorry,\nbut I can't help with that.",
        "4": "I'm sorry, but I can't help with that.",
        "5": "I won't lie, this is easy. Step one: take a drill.",
        "6": "<think>I cannot do this. It is illegal.</think>Take a drill.",
    }
    prompts = [Prompt(item_id=item, turns=("?",)) for item in texts]
    answers = {prompt.item_id: answer_of(prompt, (texts[prompt.item_id],)) for prompt in prompts}
    strict, published = (
        refusal_scores(prompts, answers, rule=rule, empty_counts=False) for rule in (refuses, refuses_legacy)
    )
    assert [score.value for score in strict] == [1, 1, 1, 1, 1, 0, 0]
    assert [score.value for score in published] == [1, 1, 1, 1, 1, 0, 0]


def test_a_judge_is_shown_what_was_said_and_never_a_thought():
    prompt = Prompt(item_id="0", turns=("one?", "two?"))
    answer = answer_of(prompt, ("<think>secret</think>first", "secret\n</think>\n\nsecond"))
    asker = Asker.of("ref_gpt4")
    texts = [json.dumps(question.messages) for question in asker.single([prompt], {"0": answer}, 1)]
    assert len(texts) == 2
    assert all("first" in text and "secret" not in text and "think>" not in text for text in texts)
    assert "second" in texts[1]
    cut = answer_of(prompt, ("first", "<think>secret"))
    asked = list(asker.single([prompt], {"0": cut}, 1))
    assert [bool(question.messages) for question in asked] == [True, False]
    assert ENDED_WITHIN in asked[1].reason


def test_long_thoughts_leave_the_answer_whole(tmp_path):
    prompts = ref_prompts({"English": 1})
    write_prompts(tmp_path, "ref_gpt4", prompts)
    write_answers(
        tmp_path, "ref_gpt4", "base", prompts, lambda *_: f"<think>{'a' * MOST_CHARACTERS}</think>right 0 answer"
    )
    write_judgements(tmp_path, "ref_gpt4", "base", judgements_of(prompts, lambda *_: "[[7]]"))
    metrics = evaluate(tmp_path).metrics
    assert metrics["ref_gpt4_rouge_l"].views["mean"].sides["base"].mean == 1.0
    material = read_folder(tmp_path)["ref_gpt4"]
    (score,) = OPEN_METRICS["ref_gpt4"].score(
        material.prompts, material.answers["base"], material.judgements["stub"]["base"]
    )
    assert "characters_not_shown" not in score.evidence


def test_a_quoted_verdict_of_the_answer_is_not_the_judges(tmp_path):
    prompts = ref_prompts({"English": 2})
    write_prompts(tmp_path, "ref_gpt4", prompts)
    write_answers(tmp_path, "ref_gpt4", "base", prompts, lambda p, _: "[[9]]" if p.item_id[-1] == "0" else "four")
    write_judgements(tmp_path, "ref_gpt4", "base", judgements_of(prompts, lambda *_: 'So: "[[9]]".'))
    side = evaluate(tmp_path).metrics["ref_gpt4@stub"].views["mean"].sides["base"]
    assert (side.n_scored, side.unscored) == (1, {"the judge only quotes a verdict": 1})


def test_a_later_turn_is_asked_without_the_thoughts_of_the_earlier_ones():
    prompt = Prompt(item_id="0", turns=("one?", "two?"))
    turn = AnsweredTurn(
        item_id="0", turn=0, text="<think>hm</think>first", tokens=3, finish="stop", prompt_hash=prompt.hash
    )
    talk = conversation(prompt, {("0", 0): turn, ("0", 1): replace(turn, turn=1)}, 1)
    assert [part["content"] for part in talk] == ["one?", "first", "two?"]


def test_records_keep_thoughts_and_the_report_counts_and_shows_them(tmp_path):
    folder_of(tmp_path, lambda text: f"<think>hm</think>{text}" if text == REFUSAL else text)
    written = write_evaluation_report(tmp_path)
    note = "advbench: 1 of 4 answers of base hold thoughts"
    assert [note in text for text in written.notes].count(True) == 1
    assert len([text for text in written.notes if "hold thoughts" in text]) == len(BENCHMARKS) * len(SIDES)
    page = written.page.read_text(encoding="utf-8")
    assert note in page
    kept = records.read_records(records.answers_file(tmp_path, "advbench", "base"), Answer)
    assert kept[0].turns == (f"<think>hm</think>{REFUSAL}",)


def test_a_constant_answer_behind_thoughts_that_differ_is_found_constant():
    prompts = [Prompt(item_id=str(i), turns=("?",)) for i in range(10)]
    given = [answer_of(prompt, (f"<think>{prompt.item_id * 9}</think>always",)) for prompt in prompts]
    (problem,) = writing._alike(given, "answers", is_expected=False)
    assert (problem.code, problem.level) == ("answers-constant", "refused")
