"""Prompts go to tools of batch inference, and their answers come back as the answers to those prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.answering.exporting import Exported, RequestForm, export
from fedllm_bench.evaluation.answering.importing import imported
from fedllm_bench.evaluation.imported_files import read_files
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.evaluation.scoring.answered import read_folder

PROMPTS = [
    Prompt(item_id="81", turns=("Write a poem.", "Make it shorter."), temperature=0.7, max_new_tokens=64),
    Prompt(item_id="82#1", turns=("What is 2 plus 2?", "And plus 3?", "And now?")),
    Prompt(item_id="ü 83", turns=("Hello?",)),
]


def exported(after: Sequence[Path] = (), form: str = "vllm", prompts: Sequence[Prompt] = PROMPTS) -> Exported:
    read = read_files(after) if after else None
    return export(prompts, read, benchmark="b", form=RequestForm(name=form, model="m"))


def answered(path: Path, found: Exported, *, but: Sequence[str] = ()) -> Path:
    """What a server makes of the requests, in another order: it says how many messages it saw, and the last."""
    rows = [_answer(request) for request in reversed(found.requests) if _id(request) not in but]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def _id(request: Any) -> str:
    return str(request.get("custom_id", request.get("id")))


def _answer(request: Any) -> dict[str, Any]:
    messages = request.get("body", request)["messages"]
    text = f"{len(messages)}:{messages[-1]['content']}"
    if "body" not in request:
        return {"id": request["id"], "text": text}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"custom_id": request["custom_id"], "response": {"status_code": 200, "body": {"choices": [choice]}}}


@pytest.mark.parametrize("form", ["jsonl", "openai", "vllm"])
def test_every_turn_goes_out_with_the_answers_before_it_and_comes_back_whole(form: str, tmp_path: Path):
    said: list[Path] = []
    for turn, num_requests in ((1, 3), (2, 2), (3, 1)):
        found = exported(said, form)
        assert (found.turn, len(found.requests), found.left_out) == (turn, num_requests, ())
        assert found.more_turns == {1: 2, 2: 1, 3: 0}[turn]
        said.append(answered(tmp_path / f"{turn}.jsonl", found))
    answers = imported(*read_files(said), PROMPTS).answers
    assert [answer.turns for answer in answers] == [
        ("1:Write a poem.", "3:Make it shorter."),
        ("1:What is 2 plus 2?", "3:And plus 3?", "5:And now?"),
        ("1:Hello?",),
    ]


def test_a_request_says_what_the_prompt_asks_for_in_the_words_of_the_server():
    vllm, openai, plain = (exported(form=form).requests[0] for form in ("vllm", "openai", "jsonl"))
    assert vllm["url"] == openai["url"] == "/v1/chat/completions"
    assert (vllm["custom_id"], plain["id"]) == ("81#1", "81#1")
    assert vllm["body"]["messages"] == [{"role": "user", "content": "Write a poem."}]
    assert (vllm["body"]["model"], vllm["body"]["temperature"], vllm["body"]["max_tokens"]) == ("m", 0.7, 64)
    assert openai["body"]["max_completion_tokens"] == 64
    assert vllm["body"]["seed"] == plain["seed"] != exported().requests[1]["body"]["seed"]


def test_what_has_no_answer_yet_is_left_out_of_the_next_turn(tmp_path: Path):
    found = exported([answered(tmp_path / "1.jsonl", exported(), but=["81#1"])])
    assert [request["custom_id"] for request in found.requests] == ["82#1#2"]
    assert found.left_out == ("81",)


def test_answers_of_other_tools_lead_to_the_next_turn(tmp_path: Path):
    row = {"question_id": 81, "model_id": "m", "choices": [{"turns": ["<think>hm</think>Roses."]}]}
    path = tmp_path / "fastchat.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    (request,) = exported([path]).requests
    assert [said["content"] for said in request["body"]["messages"]] == ["Write a poem.", "Roses.", "Make it shorter."]


def test_answers_to_all_turns_leave_nothing_to_ask(tmp_path: Path):
    path = answered(tmp_path / "1.jsonl", exported(prompts=PROMPTS[2:]))
    with pytest.raises(UserError, match=r"no question has a turn after these answers; 1 of 1 question answered"):
        exported([path], prompts=PROMPTS[2:])


def test_settings_that_a_model_refuses_are_left_out(tmp_path: Path):
    words = ["export", "prompts", "--benchmark", "harmless", "--format", "openai", "--model", "m", "--no-temperature"]
    assert cli.main([*words, "--no-seed", "--out", str(tmp_path / "out")]) == 0
    (body,) = {tuple(request["body"]) for request in files.read_jsonl(tmp_path / "out")}
    assert sorted(body) == ["max_completion_tokens", "messages", "model"]


# --- the command


def test_the_command_writes_what_import_reads_back(tmp_path: Path, capsys):
    prompts, said = tmp_path / "prompts.jsonl", tmp_path / "said.jsonl"
    words = ["export", "prompts", "--benchmark", "harmless", "--limit", "3", "--out", str(prompts)]
    assert cli.main([*words, "--format", "vllm", "--model", "m"]) == 0
    told = capsys.readouterr().out
    assert "3 requests of turn 1" in told
    assert "import answers ANSWERS --benchmark harmless" in told
    assert "Next" not in told
    said.write_text("".join(f"{json.dumps(_answer(request))}\n" for request in files.read_jsonl(prompts)))
    back = ["import", "answers", str(said), "--benchmark", "harmless", "--limit", "3", "--out", str(tmp_path / "out")]
    assert cli.main(back) == 0
    material = read_folder(tmp_path / "out")["harmless"]
    texts = [material.answers["base"][prompt.item_id].turns for prompt in material.prompts]
    assert texts == [(f"1:{prompt.turns[0]}",) for prompt in material.prompts]


def test_the_command_that_is_named_at_the_end_asks_the_same_questions(tmp_path: Path, capsys):
    out = tmp_path / "my prompts.jsonl"
    assert cli.main(["export", "prompts", "--benchmark", "harmless", "--limit", "3", "--out", str(out)]) == 0
    (named,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Then")]
    answered = tmp_path / "answers.jsonl"
    answered.write_text("".join(json.dumps({"id": one["id"], "text": "x"}) + "\n" for one in files.read_jsonl(out)))
    words = [{"ANSWERS": str(answered), "DIR": str(tmp_path / "out")}.get(word, word) for word in named.split()[2:]]
    assert cli.main(words) == 0
    assert "3 of 3 questions answered" in capsys.readouterr().out


def test_an_equal_export_changes_nothing_and_another_one_overwrites_nothing(tmp_path: Path, capsys):
    out = tmp_path / "deep" / "prompts.jsonl"
    words = ["export", "prompts", "--benchmark", "harmless", "--out", str(out)]
    assert cli.main(words) == 0
    before = (out.read_bytes(), out.stat().st_mtime_ns)
    assert cli.main(words) == 0
    assert cli.main([*words, "--limit", "3"]) == 2
    assert "there already, with other content" in capsys.readouterr().err
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


BAD = {
    "no model": (["--format", "openai"], "--format openai: give --model"),
    "a model for plain lines": (["--model", "m"], "--model: only with --format openai or vllm"),
    "a folder": (["--out", "FOLDER"], "a folder; name a file"),
    "an unknown benchmark": (["--benchmark", "harmles"], "did you mean 'harmless'"),
    "no answers": (["--after", "nowhere"], "nowhere: No such file or directory; give a file"),
    "answers that leave nothing": (["--after", "ANSWERS"], "no question has a turn after these answers"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_words_are_one_line_and_write_nothing(what: str, tmp_path: Path, capsys):
    words, expected = BAD[what]
    (tmp_path / "answers").write_text('{"id": "h00", "text": "x"}')
    places = {"FOLDER": tmp_path, "ANSWERS": tmp_path / "answers"}
    given = ["export", "prompts", "--benchmark", "harmless", "--out", str(tmp_path / "out")]
    assert cli.main([*given, *(str(places.get(word, word)) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


@pytest.mark.assets
def test_mt_bench_goes_out_in_two_batches_and_comes_back(tmp_path: Path, capsys):
    assert os.environ["FEDLLM_BENCH_MIRROR"]
    words = ["export", "prompts", "--benchmark", "mt_bench", "--format", "vllm", "--model", "m"]
    said: list[str] = []
    for turn in (1, 2):
        out, back = tmp_path / f"{turn}.jsonl", tmp_path / f"{turn}.out.jsonl"
        assert cli.main([*words, *(["--after", *said] if said else []), "--out", str(out)]) == 0
        back.write_text("".join(f"{json.dumps(_answer(request))}\n" for request in files.read_jsonl(out)))
        said.append(str(back))
    assert "80 questions have another turn" in capsys.readouterr().out
    assert cli.main(["import", "answers", *said, "--benchmark", "mt_bench", "--out", str(tmp_path / "out")]) == 0
    assert "80 of 80 questions answered" in capsys.readouterr().out
