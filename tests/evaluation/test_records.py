"""Records of evaluation: what is written comes back, and a line that is no record is refused by its number."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.records import (
    Answer,
    Judgement,
    Prompt,
    Reply,
    answers_file,
    judgements_file,
    read_records,
    write_records,
)

PROMPT = Prompt(item_id="81", turns=("a\u2028b", "c"), references=("x", "y"), temperature=0.7)
ANSWER = Answer(item_id="81", prompt_hash=PROMPT.hash, turns=("é\n", ""), tokens=(3, 0), finish=("stop", "length"))
REPLY = Reply(text="[[7]]", model="m", price=0.25, prompt_tokens=5)
JUDGED = Judgement(item_id="81", turn=2, request_hash="h", repeat=1, order="ba", reply=REPLY, answer_hash="x")
UNJUDGED = Judgement(item_id="82", turn=1, request_hash="h", reason="timed out")
LINE = '{"item_id":"1","prompt_hash":"h","turns":["a"],"tokens":[1],"finish":["%s"]}\n'


@pytest.mark.parametrize("records", [[PROMPT], [ANSWER, ANSWER], [JUDGED, UNJUDGED], []])
def test_what_is_written_comes_back(tmp_path: Path, records: list[Prompt]) -> None:
    path = tmp_path / "new" / "x.jsonl"
    write_records(path, records)
    kind = type(records[0]) if records else Answer
    assert read_records(path, kind) == records


def test_no_file_is_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl", Answer) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LINE % "stop" + "{\n", "line 2"),
        (LINE % "ended", "finish"),
        (LINE.replace('"item_id":"1",', "") % "stop", "item_id"),
        (LINE.replace('"1"', '"1","more":1', 1) % "stop", "more"),
        ("[" * 100_000 + "\n", "line 1"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words) as caught:
        read_records(path, Answer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("repeat", [-1, 1000, 10**12])
def test_a_repeat_that_no_command_can_ask_for_is_refused(tmp_path: Path, repeat: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"item_id":"1","turn":1,"request_hash":"h","repeat":{repeat}}}\n', encoding="utf-8")
    with pytest.raises(UserError, match="line 1: repeat"):
        read_records(path, Judgement)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"item_id": "\xff"}\n')
    with pytest.raises(UserError, match="UTF-8"):
        read_records(tmp_path / "x.jsonl", Answer)


def test_a_prompt_hash_covers_what_an_answer_depends_on() -> None:
    same = Prompt(item_id="82", turns=PROMPT.turns, temperature=0.7, category="math")
    hotter = Prompt(item_id="81", turns=PROMPT.turns, temperature=0.8)
    assert same.hash == PROMPT.hash != hotter.hash


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x" * 101, "a.", "a\x00b"])
def test_no_name_leaves_the_folder(tmp_path: Path, name: str) -> None:
    for make in (
        lambda: answers_file(tmp_path, name, "base"),
        lambda: answers_file(tmp_path, "mt_bench", name),
        lambda: judgements_file(tmp_path, name, "mt_bench", "base"),
    ):
        with pytest.raises(UserError, match="cannot name a file"):
            make()
