"""What was answered stays through kills, failed items are counted, and plans are kept to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked import PROMPTS, Scripted

from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.answer_side import answer_side, finished, forget_failed, locked
from fedllm_bench.evaluation.answering.journal import Journal, journal_file
from fedllm_bench.evaluation.answering.plan import keep_to, plan_of
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, Overrides
from fedllm_bench.evaluation.records import Answer, Prompt, answers_file, prompts_file, read_records

# --- journal and file


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path: Path):
    first, second, third = Scripted(most=3), Scripted(), Scripted()
    with pytest.raises(KeyboardInterrupt):
        answer_side(tmp_path, "b", "base", PROMPTS, lambda: first)
    path = answers_file(tmp_path, "b", "base")
    assert not path.exists()
    with journal_file(path).open("ab") as file:
        file.write(b'{"item_id":"c","turn":1,"te')  # a torn line
    outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: second)
    assert outcome.new == 2
    assert sorted(first.asked + second.asked) == [(p.item_id, n) for p in PROMPTS for n in range(len(p.turns))]
    assert [answer.turns for answer in outcome.answers] == [
        ("a0\u2028", "a1\u2028"),
        ("b0\u2028",),
        ("c0\u2028", "c1\u2028", "c2\u2028"),
    ]
    assert not journal_file(path).exists()
    assert answer_side(tmp_path, "b", "base", PROMPTS, lambda: third).answers == outcome.answers
    assert third.asked == []
    assert read_records(prompts_file(tmp_path, "b"), Prompt) == PROMPTS
    assert not list(tmp_path.rglob("*.part*"))


def test_what_is_added_behind_a_torn_line_can_be_read(tmp_path: Path):
    journal = Journal(tmp_path / "x.partial")
    turn = Scripted().turn
    journal.append([turn(PROMPTS[0], 0)])
    journal.path.write_bytes(journal.path.read_bytes() + '{"text":"é'.encode()[:-1])
    again = Journal.open(journal.path, PROMPTS)
    again.append([turn(PROMPTS[1], 0)])
    assert list(Journal.open(journal.path, PROMPTS).turns) == [("a", 0), ("b", 0)]


def test_a_changed_line_within_a_journal_is_named(tmp_path: Path):
    path = tmp_path / "x.partial"
    path.write_text("{}\n{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"x\.partial, line 1"):
        Journal.open(path, PROMPTS)


def test_failed_items_are_counted_kept_and_asked_again_when_wanted(tmp_path: Path):
    outcome = answer_side(tmp_path, "b", "base", PROMPTS, lambda: Scripted(failing=("c",)))
    assert [answer.item_id for answer in outcome.failed] == ["c"]
    assert outcome.failed[0].finish == ("failed",) * 3
    assert outcome.failed[0].reason == "no luck"
    again = Scripted()
    assert answer_side(tmp_path, "b", "base", PROMPTS, lambda: again).failed == outcome.failed
    assert forget_failed(tmp_path, "b", "base", PROMPTS) == 1
    assert not answer_side(tmp_path, "b", "base", PROMPTS, lambda: again).failed
    assert again.asked == [("c", 0), ("c", 1), ("c", 2)]
    assert forget_failed(tmp_path, "b", "base", PROMPTS) == 0


def test_a_file_of_other_prompts_is_refused(tmp_path: Path):
    answer_side(tmp_path, "b", "base", PROMPTS, Scripted)
    changed = [replace(PROMPTS[0], temperature=0.5), *PROMPTS[1:]]
    for prompts_now in (changed, PROMPTS[:2]):
        with pytest.raises(UserError, match="does not hold one answer to each prompt"):
            finished(tmp_path, "b", "base", prompts_now)
    assert all(isinstance(answer, Answer) for answer in finished(tmp_path, "b", "base", PROMPTS) or [None])


def test_two_processes_do_not_answer_into_one_folder(tmp_path: Path):
    with locked(tmp_path), pytest.raises(UserError, match="another process"), locked(tmp_path):
        pass


# --- the plan


def plan_with(**changes: Any) -> Any:
    given = {
        "template": {"name": "mini", "hash": "t"},
        "model": {"name": "mini", "base_hash": "m"},
        "seed": 0,
        "followed": {"threads": 1},
        "overrides": Overrides(),
        "prompts": PROMPTS,
        **changes,
    }
    return plan_of(BENCHMARKS["mini"], given.pop("prompts"), given.pop("overrides"), **given)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "seed is 1, was 0"),
        ({"template": {"name": "alpaca", "hash": "u"}}, "template.name is 'alpaca', was 'mini'"),
        ({"model": {"name": "mini", "base_hash": "n"}}, "model.base_hash is 'n', was 'm'"),
        ({"followed": {"threads": 2}}, "followed.threads is 2, was 1"),
        ({"overrides": Overrides(temperature=0.0)}, "overrides.temperature is 0.0, was None"),
        ({"prompts": PROMPTS[:2]}, "benchmark.items is 2, was 3"),
        ({"prompts": [replace(PROMPTS[0], references=("x",)), *PROMPTS[1:]]}, "benchmark.prompts_hash"),
    ],
)
def test_a_plan_that_differs_is_refused_with_what_differs(changes, words, tmp_path: Path):
    keep_to(tmp_path, plan_with(), "base", "", {})
    before = (tmp_path / "answers/mini/plan.json").read_bytes()
    keep_to(tmp_path, plan_with(), "base", "", {"device": "another"})
    with pytest.raises(UserError, match=words) as caught:
        keep_to(tmp_path, plan_with(**changes), "base", "", {})
    assert "remove that folder" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "answers/mini/plan.json").read_bytes() == before


def test_a_side_may_come_later_but_not_with_another_adapter(tmp_path: Path):
    keep_to(tmp_path, plan_with(), "base", "", {})
    keep_to(tmp_path, plan_with(), "global", "f", {})
    assert files.read_json(tmp_path / "answers/mini/plan.json")["sides"] == {"base": "", "global": "f"}
    with pytest.raises(UserError, match="the adapter of side global is another one"):
        keep_to(tmp_path, plan_with(), "global", "g", {})


@pytest.mark.parametrize(
    ("old", "new"), [("{", "{{"), ('"schema_version": 1', '"schema_version": 0'), ('"threads": 1', '"threads": "x"')]
)
def test_a_file_that_is_no_plan_is_refused(old, new, tmp_path: Path):
    keep_to(tmp_path, plan_with(), "base", "", {})
    path = tmp_path / "answers/mini/plan.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match="remove"):
        keep_to(tmp_path, plan_with(), "base", "", {})
