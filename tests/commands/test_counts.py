"""Counts in words: one thing is one thing, and its verb goes with it."""

from __future__ import annotations

import pytest

from fedllm_bench.commands import answer
from fedllm_bench.common.text import counted, part_of


@pytest.mark.parametrize(
    ("got", "text"),
    [
        (counted(1, "item"), "1 item"),
        (counted(0, "item"), "0 items"),
        (counted("1,000", "token"), "1,000 tokens"),
        (counted("0 to 3", "client"), "0 to 3 clients"),
        (counted(2, "reply"), "2 replies"),
        (counted(2, "key"), "2 keys"),
        (counted(1, "reply", "are"), "1 reply is"),
        (counted(2, "reply", "are"), "2 replies are"),
        (counted(1, "item", "weigh"), "1 item weighs"),
        (part_of(1, 6, "prompt", "have"), "1 of 6 prompts has"),
        (part_of(1, 1, "prompt", "have"), "1 of 1 prompt has"),
        (part_of(2, 6, "prompt", "have"), "2 of 6 prompts have"),
        (part_of(1, 3, "question"), "1 of 3 questions"),
    ],
)
def test_a_count_is_grammatical(got: str, text: str):
    assert got == text


@pytest.mark.parametrize(("count", "words"), [(1, "1 item has"), (2, "2 items have")])
def test_failed_answers_are_counted(count: int, words: str, capsys: pytest.CaptureFixture[str]):
    answer._say_failed(["too long"] * count)
    assert capsys.readouterr().out.splitlines()[0] == f"Failed    {words} no whole answer, as: too long"
