"""Turns of raw conversations: JSON lines and parquet give the same rows, and the same refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from built_rows import as_parquet, built
from built_splits import removed
from raw_rows import chat, turns, vote, write_raw

from fedllm_bench.common.errors import UserError
from fedllm_bench.data.manifest import Split

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def text(*words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": word} for word in words]


def both(tmp_path: Path, rows: list[dict[str, Any]]) -> list[Path]:
    return [write_raw(tmp_path / "x.jsonl", rows), as_parquet(tmp_path / "x.parquet", rows)]


def messages(split: Split) -> list[str]:
    return [turn["content"] for row in split.rows("train") for turn in row.messages]


FORMS: dict[str, Any] = {
    "turns": [QUESTION, ANSWER],
    "with other fields": [turn | {"toxic": False, "country": "x"} for turn in (QUESTION, ANSWER)],
    "parts": [{"role": "user", "content": text("q")}, {"role": "assistant", "content": text("a")}],
    "several parts": [{"role": "user", "content": text("q", "")}, {"role": "assistant", "content": text("", "a")}],
    "parts with other fields": [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"], "image_url": None}]}
        for turn in (QUESTION, ANSWER)
    ],
    "parts of a reply": [
        {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
    ],
    "parts without a type": [{"role": t["role"], "content": [{"text": t["content"]}]} for t in (QUESTION, ANSWER)],
    "lists in a record": {"role": ["user", "assistant"], "content": ["q", "a"]},
    "JSON text": json.dumps([QUESTION, ANSWER]),
    "JSON text of lists": json.dumps({"role": ["user", "assistant"], "content": ["q", "a"]}),
    "Python text": str([QUESTION, ANSWER]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_conversation_is_read_in_every_clear_form(tmp_path, form):
    for path in both(tmp_path, [chat("u", "q", "a") | {"conversation": FORMS[form]}]):
        split = built(path, tmp_path)
        assert messages(split) == ["q", "a"]


REFUSED: dict[str, tuple[Any, str]] = {
    "text for content": (
        [{"role": "user", "text": "q"}, {"role": "assistant", "text": "a"}],
        "has a turn without a role and a content as text; turn 1 has ['role', 'text']",
    ),
    "ShareGPT": (
        [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
        "has a turn without a role and a content as text; turn 1 has ['from', 'value']",
    ),
    "no role": ([{"content": "q"}, {"content": "a"}], "turn 1 has ['content']"),
    "a null role": ([{"role": None, "content": "q"}], "the role of turn 1 is NoneType"),
    "a boolean": ([{"role": "user", "content": True}], "the content of turn 1 is bool"),
    "a record": ([{"role": "user", "content": {"text": "q"}}], "the content of turn 1 is dict"),
    "an image": (
        [{"role": "user", "content": [*text("q"), {"type": "image_url", "text": None}]}],
        "has content in parts that are not text; turn 1 has a part of type 'image_url'",
    ),
    "words in a list": ([{"role": "user", "content": ["q"]}], "turn 1 has a part of type 'str'"),
    "a part without text": ([{"role": "user", "content": [{"type": "text", "text": None}]}], "a part of type 'text'"),
    "one turn": (QUESTION, "is dict, not list"),
    "lists of two lengths": ({"role": ["user", "assistant"], "content": ["q"]}, "is dict, not list"),
    "words": (["q", "a"], "holds str, not turns with a role and a content"),
    "text": ("q", "is str, not list"),
    "null": (None, "is NoneType, not list"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_any_other_conversation_is_refused_alike_in_both_formats(tmp_path, form):
    value, said = REFUSED[form]
    for path in both(tmp_path, [chat("u", "q", "a") | {"conversation": value}]):
        with pytest.raises(UserError) as caught:
            built(path, tmp_path)
        assert f"{path.name}, row 1: column 'conversation' " in str(caught.value)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_null_content_stays_empty(tmp_path):
    rows = [chat("u", "q", "a"), chat("u", "r", "b") | {"conversation": [{"role": "user", "content": None}, ANSWER]}]
    for path in both(tmp_path, rows):
        assert removed(built(path, tmp_path)) == {"empty": 1}


def test_both_sides_of_a_vote_are_read_and_refused_so(tmp_path):
    parts = [{"role": turn["role"], "content": text(turn["content"])} for turn in turns("q", "good")]
    for path in both(tmp_path, [vote("j", "q", "", "bad") | {"conversation_a": parts}]):
        (row,) = built(path, tmp_path, "chatbot_pa").preference_rows("train")
        assert (row.chosen, row.rejected) == ("good", "bad")
    wrong = [{"role": "user", "value": "q"}]
    for path in both(tmp_path, [vote("j", "q", "good", "bad") | {"conversation_b": wrong}]):
        with pytest.raises(UserError, match="row 1: column 'conversation_b' has a turn without"):
            built(path, tmp_path, "chatbot_pa")
