"""Scores of a plugin: what is taken, and in which words the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.scores.checked import scores_of_questions, scores_of_rows
from fedllm_bench.scores.score import MetricInfo, Score

INFO = MetricInfo(name="few", version="1", unit="share", higher_is_better=True, description="")
ROWS = [("anna", "a"), ("anna", "b"), ("bo", "a")]  # two clients may have rows of one id
QUESTIONS = {"q1": 1, "q2": 2}


def row(client: str, item: str, value: Any = 0.5, **more: Any) -> Score:
    return Score(item, value, cluster=client, **more)


RIGHT = [row(*pair) for pair in ROWS]


def test_one_score_for_each_row_in_order_is_taken_as_it_is():
    assert scores_of_rows(RIGHT, INFO, ROWS) == RIGHT
    assert scores_of_rows([], INFO, []) == []


def test_numbers_of_numpy_become_plain_ones():
    (score,) = scores_of_rows([row("anna", "a", np.float32(0.25), weight=np.int64(3))], INFO, ROWS[:1])
    assert (type(score.value), score.value, type(score.weight), score.weight) == (float, 0.25, float, 3.0)


REFUSED: dict[str, tuple[Any, str]] = {
    "none": (None, "gave NoneType; its `score` should give a list of Score"),
    "numbers": ([0.5, 0.5, 0.5], "gave a list with other things in it; its `score` should give a list of Score"),
    "few": (RIGHT[:2], "gave 2 scores for 3 rows; give one for each, in order"),
    "many": ([*RIGHT, RIGHT[0]], "gave 4 scores for 3 rows; give one for each, in order"),
    "repeated": (
        [RIGHT[0], RIGHT[0], RIGHT[2]],
        "gave as score 2 one of 'a', and row 2 is 'b'; give one for each, in order, with item_id=item.row.row_id",
    ),
    "foreign": (
        [RIGHT[0], row("anna", "x"), RIGHT[2]],
        "gave as score 2 one of 'x', and row 2 is 'b'; give one for each, in order, with item_id=item.row.row_id",
    ),
    "no client": (
        [Score("a", 0.5), *RIGHT[1:]],
        "gave row 'a' of client 'anna' the cluster ''; give cluster=item.row.client_id",
    ),
    "number as id": ([Score(1, 0.5), *RIGHT[1:]], "gave a score of 1; item_id and cluster should be text"),  # type: ignore[arg-type]
    "evidence": (
        [row("anna", "a", evidence={"x": np.float32(1)}), *RIGHT[1:]],
        "gave 'a' evidence or a group that JSON cannot hold (Object of type float32 is not JSON serializable); "
        "give plain numbers, texts, lists and dicts",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_scores_of_rows_are_refused_in_one_line(name: str):
    found, expected = REFUSED[name]
    with pytest.raises(UserError) as caught:
        scores_of_rows(found, INFO, ROWS)
    assert str(caught.value) == f"the metric few (1) {expected}"


def test_questions_are_scored_whole_or_by_turn():
    whole = [Score("q1", 1.0), Score("q2", 0.0, cluster="q2")]
    turns = [Score("q1", 1.0, cluster="q1"), Score("q2/1", 0.0, cluster="q2"), Score("q2/2", None, "no", cluster="q2")]
    assert scores_of_questions(whole, INFO, QUESTIONS) == whole
    assert scores_of_questions(turns, INFO, QUESTIONS) == turns


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([Score("q1", 1.0)], "gave no score for 1 of 2 questions; give one for each"),
        ([Score("q1", 1.0), Score("q2", 1.0), Score("q1", 0.0)], "gave two scores of 'q1'; give one"),
        ([Score("q3", 1.0)], "gave a score of 'q3', which was not asked; give the prompt's item_id"),
        ([Score("q1", 1.0, cluster="x")], "gave a score of 'q1', which was not asked; give the prompt's item_id"),
        ([Score("q1/2", 1.0, cluster="q1")], "gave a score of 'q1/2', which was not asked; give the prompt's item_id"),
        ({}, "gave dict; its `score` should give a list of Score"),
    ],
)
def test_other_scores_of_questions_are_refused_in_one_line(found: Any, expected: str):
    with pytest.raises(UserError) as caught:
        scores_of_questions(found, INFO, QUESTIONS)
    assert str(caught.value) == f"the metric few (1) {expected}"


@pytest.mark.parametrize("value", ["high", [0.5], 1j])
def test_a_value_that_is_no_number_is_refused_with_its_item(value: Any):
    with pytest.raises(ValueError, match=r"item 'a' has .*, which is no number; give None and a reason"):
        Score("a", value)
