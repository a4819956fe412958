"""Greedy answers against the user's own: with answers that are known, and those of a model."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from items import SETTINGS, item_of
from tiny import random_tree

from fedllm_bench.common.errors import UserError
from fedllm_bench.leaderboard.submission.recompute import rescored
from fedllm_bench.metrics import user_answers
from fedllm_bench.metrics.registry import METRICS, score_group, together
from fedllm_bench.metrics.running import GreedyAnswer, answers, greedy_answers
from fedllm_bench.metrics.user_answers import Chrf, EditF05, EndedByItself, OfAnswer, OverCopy, asked_of
from fedllm_bench.results.run_results import ScoreSet, metrics_of
from fedllm_bench.runs.cell import Cell
from fedllm_bench.runs.loading import load_bench
from fedllm_bench.scores.score import SCALES
from fedllm_bench.training.model.lora import initial_adapter

OF_ANSWER = ("chrf", "over_copy", "edit_f05", "ended")
FIX = "Correct: He go home."
GIVEN = {
    FIX: GreedyAnswer("He goes home.", True),
    "Capital of France?": GreedyAnswer("Paris is big and", False),
}
ITEMS = [item_of(FIX, "He goes home."), item_of("Capital of France?", "Paris")]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Answers as in GIVEN; the sizes of what was asked for."""
    asked: list[int] = []

    def scripted(model: Any, conversations: Any, settings: Any, owners: Any) -> list[GreedyAnswer]:
        asked.append(len(conversations))
        assert all(turns[-1]["role"] == "user" for turns in conversations)
        return [GIVEN[turns[-1]["content"]] for turns in conversations]

    monkeypatch.setattr(user_answers, "greedy_answers", scripted)
    return asked


def scores(metric: OfAnswer) -> list[Any]:
    return metric.score(SimpleNamespace(), ITEMS, SETTINGS)


def test_chrf_is_that_of_sacrebleu(given):
    from sacrebleu.metrics import CHRF

    right, wrong = scores(Chrf())
    assert right.value == 100
    assert wrong.value == pytest.approx(CHRF().sentence_score("Paris is big and", ["Paris"]).score)
    assert 20 < wrong.value < 90
    assert wrong.evidence == {"answer": "Paris is big and", "ended": False}


def test_over_copy_is_above_0_for_what_is_better_than_a_copy(given):
    from sacrebleu.metrics import CHRF

    right, wrong = scores(OverCopy())
    copy = CHRF().sentence_score("He go home.", ["He goes home."]).score
    assert (right.value, right.evidence["copy"]) == pytest.approx((100 - copy, copy))
    assert 10 < right.value < 60
    assert wrong.evidence["copy"] < 20
    assert wrong.value == pytest.approx(scores(Chrf())[1].value - wrong.evidence["copy"])


def test_a_copy_has_an_edit_f05_of_0_and_no_gain_over_copying(given, monkeypatch):
    monkeypatch.setitem(GIVEN, FIX, GreedyAnswer("He go home.", True))
    assert scores(EditF05())[0].value == 0
    assert scores(OverCopy())[0].value == 0
    assert scores(Chrf())[0].value > 40  # which is why there are the two above


def test_edit_f05_scores_corrections_alone(given):
    (score,) = scores(EditF05())
    assert (score.item_id, score.value) == (FIX, 1.0)
    assert score.evidence == {"answer": "He goes home.", "ended": True, "right": 1, "wrong": 0, "missing": 0}
    assert given == [1]  # the other row is not answered


def test_ended_is_whether_the_answer_stopped(given):
    assert [score.value for score in scores(EndedByItself())] == [1.0, 0.0]


def test_only_the_last_turn_is_what_is_copied(given):
    turns = ("Correct: He go home.", "He goes home.", "Capital of France?", "Paris")
    row = SimpleNamespace(messages=[{"role": "", "content": text} for text in turns], completion="Paris")
    assert not EditF05().asks(row)


# --- in a group


def test_all_are_one_pass_and_equal_to_each_by_itself(given):
    assert together(["heldout", *OF_ANSWER[:2], "mini_exact", *OF_ANSWER[2:]]) == [
        ("heldout",),
        OF_ANSWER,
        ("mini_exact",),
    ]
    found = score_group(OF_ANSWER, SimpleNamespace(), ITEMS, SETTINGS)
    assert given == [2]
    assert found == {name: scores(METRICS[name]) for name in OF_ANSWER}


def test_corrections_alone_are_answered_where_nothing_else_is_asked_for(given):
    score_group(("edit_f05",), SimpleNamespace(), ITEMS, SETTINGS)
    assert given == [1]


def test_scores_are_json_and_give_entries_with_a_view_of_unseen_users(given):
    found = {name: score_group(OF_ANSWER, SimpleNamespace(), ITEMS, SETTINGS)[name] for name in OF_ANSWER}
    json.dumps([score.to_dict() for own in found.values() for score in own])
    entries = metrics_of(
        {name: ScoreSet(before=own, after=own) for name, own in found.items()},
        {name: METRICS[name].info for name in OF_ANSWER},
    )
    assert list(entries) == list(OF_ANSWER)
    assert entries["edit_f05"]["after"]["n_scored"] == 1
    assert entries["chrf"]["after"]["n_scored"] == 2
    assert SCALES[entries["chrf"]["unit"]] == (0, 100)
    assert SCALES[entries["edit_f05"]["unit"]] == SCALES[entries["ended"]["unit"]] == (0, 1)


@pytest.mark.parametrize("name", ["edit_f05", "ended"])
def test_a_score_that_is_not_what_its_evidence_says_is_found(given, name):
    score = scores(METRICS[name])[0]
    assert rescored(name, score) is score
    forged = score.from_dict({**score.to_dict(), "value": 0.25})
    assert rescored(name, forged).value == score.value


# --- of a model


def test_an_answer_ended_where_a_longer_limit_makes_it_no_longer(tiny_model, items):
    """Of the tiny model, under an adapter that makes it stop now and then."""
    adapter = random_tree(initial_adapter(tiny_model.layers, 4, 0), 3, scale=0.4, dtype=torch.float32)
    turns = [item.row.messages[:-1] for item in items[:60]]
    longer = SETTINGS.__class__(**{**vars(SETTINGS), "max_new_tokens": 12})
    with tiny_model.using(adapter):
        short, long = (greedy_answers(tiny_model, turns, settings) for settings in (SETTINGS, longer))
        assert answers(tiny_model, turns, SETTINGS) == [answer.text for answer in short]
    for one, other in zip(short, long, strict=True):
        assert one == other if one.ended else other.text.startswith(one.text.rstrip("\ufffd"))
    assert len({answer.text for answer in short}) > 3


def test_a_run_refuses_edit_f05_without_corrections_and_says_what_it_leaves_out(
    tiny_split, tiny_run_config, tmp_path, monkeypatch, caplog
):
    cell = Cell(tiny_run_config("fedavg", metrics="heldout,edit_f05"), tiny_split, tmp_path, 1)
    monkeypatch.setattr(EditF05, "asks", lambda self, row: False)
    with pytest.raises(UserError, match=r"METRICS=edit_f05: it scores none of \d+ held-out rows"):
        load_bench(cell)
    monkeypatch.setattr(EditF05, "asks", lambda self, row: row.row_id < "8")
    caplog.set_level("INFO", logger="fedllm_bench")
    bench = load_bench(cell)
    asked = asked_of(EditF05(), bench.items)
    assert 0 < asked < len(bench.items)
    assert f"edit_f05 scores {asked} of {len(bench.items)} held-out rows" in caplog.text
