"""Turns of a question in rows, or files, of their own, as the batches of OpenAI and vLLM give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.importing import imported, told
from fedllm_bench.evaluation.imported_files import read_files
from fedllm_bench.evaluation.records import Prompt

PROMPTS = [
    Prompt(item_id="81", turns=("Write a poem.", "Make it shorter.")),
    Prompt(item_id="82", turns=("What is 2 plus 2?", "And plus 3?")),
    Prompt(item_id="83", turns=("Hello?", "Again?")),
]


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def batch(name: str, text: str | None, finish: str = "stop", status: int = 200, **body: Any) -> dict[str, Any]:
    choices = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}]
    response = {"status_code": status, "body": {"model": "m", "choices": choices, **body}}
    return {"id": "batch_req_1", "custom_id": name, "response": response, "error": None}


def of_files(tmp_path: Path, *files_of_rows: list[Any]):
    paths = [written(tmp_path / f"{number}.jsonl", rows) for number, rows in enumerate(files_of_rows)]
    return imported(*read_files(paths), PROMPTS)


def test_turns_of_several_files_are_put_together(tmp_path: Path):
    first = [batch(f"{item}#1", f"one {item}") for item in (83, 81, 82)]
    second = [batch("81#2", "two 81"), batch("82#2", "two 82", "length", usage={"completion_tokens": 7})]
    found = of_files(tmp_path, first, second)
    answers = [(answer.turns, answer.finish, answer.tokens) for answer in found.answers]
    assert answers == [
        (("one 81", "two 81"), ("stop", "stop"), (0, 0)),
        (("one 82", "two 82"), ("stop", "length"), (0, 7)),
        (("one 83", ""), ("stop", "failed"), (0, 0)),
    ]
    assert told(found) == "2 of 3 questions answered, 1 with another number of turns (83)"


def test_what_a_batch_could_not_answer_has_failed_with_its_reason(tmp_path: Path):
    rows: list[Any] = [batch("81#1", "a"), batch("81#2", None), batch("82#1", "half", "abort")]
    rows += [{"custom_id": "83#1", "response": {"status_code": 429, "body": {"error": {"message": "<b>slow\n"}}}}]
    found = of_files(tmp_path, rows)
    assert [answer.reason for answer in found.answers] == [
        "the message has no text", "it ended with 'abort'", "the batch has no answer to it (429: <b>slow\\n)",
    ]  # fmt: skip
    assert (found.answers[0].turns, found.answers[0].finish) == (("a", ""), ("stop", "failed"))
    assert "3 that failed where they were made (81, 82, 83)" in told(found)


def test_a_content_in_parts_is_its_text(tmp_path: Path):
    row = batch("81#1", "x")
    parts = [{"type": "thinking", "text": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    row["response"]["body"]["choices"][0]["message"]["content"] = parts
    bare = batch("82#1", "c")
    bare["response"] = bare["response"]["body"]
    answers = of_files(tmp_path, [row, bare]).answers
    assert [answer.turns[0] for answer in answers] == ["ab", "c", ""]


def test_an_answer_stands_before_an_error_and_equal_ones_count_once(tmp_path: Path):
    rows: list[Any] = [{"custom_id": "81#1", "response": None, "error": "later"}]
    rows += [batch("81#1", "a"), batch("81#1", "a"), batch("81#2", "b"), batch("82#1", "x"), batch("82#1", "y")]
    found = of_files(tmp_path, rows)
    assert found.answers[0].turns == ("a", "b")
    assert (found.several, found.answers[1].turns) == (("82",), ("", ""))


def test_a_whole_conversation_and_other_turns_to_the_same_question_are_different_answers(tmp_path: Path):
    rows = [{"id": "81", "turns": ["a", "b"]}, {"id": "81#1", "text": "a"}, {"id": "81#2", "text": "c"}]
    assert of_files(tmp_path, rows).several == ("81",)
    rows[2]["text"] = "b"
    assert of_files(tmp_path, rows).answers[0].turns == ("a", "b")


def test_only_a_turn_that_the_question_has_is_named_by_an_id(tmp_path: Path):
    rows = [{"id": name, "text": "x"} for name in ("81#1", "81#3", "81#0", "#1", "81#1#1", "81#99999999999")]
    assert of_files(tmp_path, rows).unknown == ("81#3", "81#0", "#1", "81#1#1", "81#99999999999")


def test_files_of_two_formats_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="2 formats"):
        of_files(tmp_path, [batch("81#1", "a")], [{"id": "82", "text": "x"}])
