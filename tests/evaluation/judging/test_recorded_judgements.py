"""Recorded judgements are set beside the answers that they are about: what fits counts, what does not is named."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from judged import REF, write_answers
from judged_pairs import TEMPLATES

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.common.errors import UserError
from fedllm_bench.evaluation.judges import questions
from fedllm_bench.evaluation.judges.questions import Asker, Question
from fedllm_bench.evaluation.judging.judgement_import import import_notes, imported_preset
from fedllm_bench.evaluation.judging.judging import judge_of, read_answers
from fedllm_bench.evaluation.records import Prompt, answers_file, prompts_file, read_records
from fedllm_bench.evaluation.scoring.answered import read_folder
from fedllm_bench.leaderboard.checks import judged

MIRROR = os.environ.get("FEDLLM_BENCH_MIRROR")
ID = imported_preset("gpt-4").id


@pytest.fixture(autouse=True)
def _templates(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """MT-Bench's own are an asset."""
    if "assets" not in request.keywords:
        monkeypatch.setattr(questions, "mt_bench_templates", lambda: TEMPLATES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_answers(tmp_path / "here", "ref_gpt4", "base")


def asked(folder: Path, benchmark: str = "ref_gpt4") -> list[Question]:
    prompts = read_records(prompts_file(folder, benchmark), Prompt)
    return list(Asker.of(benchmark).single(prompts, read_answers(folder, benchmark, "base"), 1))


def single(question: Question, score: float = 7, **more: Any) -> dict[str, Any]:
    row = {"question_id": question.slot.item_id, "model": "m", "judge": ["gpt-4", "single-v1"], "turn": 1}
    prompt = question.messages[-1]["content"]
    return {**row, "user_prompt": prompt, "judgment": f"So. Rating: [[{score}]]", "score": score, "tstamp": 1.5, **more}


def written(folder: Path, rows: list[Any]) -> Path:
    path = folder.parent / "judgements.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def taken(folder: Path, rows: list[Any], *more: str) -> int:
    return cli.main(["import", "judgements", str(written(folder, rows)), "--out", str(folder), "--model", "m", *more])


def test_replies_to_the_requests_of_these_answers_count_and_results_say_that_they_were_imported(folder: Path, capsys):
    rows = [single(question, score) for question, score in zip(asked(folder), (7, 4), strict=True)]
    rows[1]["user_prompt"] = rows[1]["user_prompt"].replace("\n", "\r\n") + " \n"  # space is no difference
    assert taken(folder, [*rows, {**rows[0], "model": "another"}]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 questions with a reply\n" in out
    assert "read here as the file says" in out
    assert cli.main(["evaluate", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"2 replies of {ID} about base were recorded elsewhere and imported; the requests of 2" in told
    assert f"ref_gpt4: answers of base are kept; judged by {ID}" in told
    metrics = files.read_json(folder / "evaluation.json")["metrics"]
    assert ID.startswith("imported-gpt-4-")
    assert metrics[f"ref_gpt4@{ID}"]["views"]["mean"]["sides"]["base"]["mean"] == 5.5
    assert "recorded elsewhere" in (folder / "report.html").read_text(encoding="utf-8")


def test_the_same_import_changes_nothing_and_another_one_overwrites_nothing(folder: Path, capsys):
    rows = [single(question) for question in asked(folder)]
    assert taken(folder, rows) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert taken(folder, rows) == 0
    assert "(there before)" in capsys.readouterr().out
    assert taken(folder, [single(question, 9) for question in asked(folder)]) == 2
    assert f"other judgements of {ID} are there already" in capsys.readouterr().err
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before}


def test_a_reply_about_another_answer_does_not_count(folder: Path, capsys):
    first, second = asked(folder)
    assert taken(folder, [single(first), single(second, user_prompt="Grade this: something else.")]) == 0
    assert "1 of 2 questions with a reply, 1 about other answers (chat-1 turn 1)" in capsys.readouterr().out
    one, other = read_folder(folder)["ref_gpt4"].judgements[ID]["base"]
    assert (one.reply is not None, other.reply, other.reason) == (
        True, None, "the imported reply is to another request than these answers make",
    )  # fmt: skip


def test_a_changed_answer_makes_imported_replies_stale(folder: Path):
    assert taken(folder, [single(question) for question in asked(folder)]) == 0
    write_answers(folder, "ref_gpt4", "base", {REF[0].item_id: ("Other words.",)})
    one, other = read_folder(folder)["ref_gpt4"].judgements[ID]["base"]
    assert (one.reply, other.reply is not None) == (None, True)


def test_verdicts_are_read_anew_and_differences_are_said(folder: Path, capsys):
    first, second = asked(folder)
    rows = [single(first, 7, judgment="[[7]] at first, but in the end Rating: [[4]]"), single(second, score=-1)]
    rows[1]["judgment"] = "I would rather not say."
    assert taken(folder, rows) == 0
    out = capsys.readouterr().out
    assert "1 reply is read otherwise than the file says: aya-0 turn 1: 7 in the file, 4 here" in out
    material = read_folder(folder)["ref_gpt4"]
    assert [one.reply.text for one in material.judgements[ID]["base"] if one.reply] == [row["judgment"] for row in rows]


def test_what_is_missing_doubled_failed_unknown_and_unchecked_is_counted_and_named(folder: Path, capsys):
    first, second = asked(folder)
    rows = [single(first), single(first), single(second, user_prompt=None)]
    unknown = single(first, question_id="<b>x\x1b[2J")
    assert taken(folder, [*rows, unknown]) == 0
    assert (
        "2 of 2 questions with a reply, 1 unknown to the benchmark (<b>x\\x1b[2J turn 1), 1 taken unchecked, "
        "since their requests are not recorded"
    ) in capsys.readouterr().out
    other = write_answers(folder.parent / "other", "ref_gpt4", "base")
    assert taken(other, [single(first, judgment="$ERROR$"), single(second), single(second, 8)]) == 2
    assert "1 with different replies (chat-1 turn 1), 1 without a reply where they were judged (aya-0 turn 1)" in (
        capsys.readouterr().err
    )


# --- pairs


def pair(ab: Question, ba: Question, **more: Any) -> dict[str, Any]:
    """Game 1 shows m first."""
    row = {"question_id": ab.slot.item_id, "model_1": "m", "model_2": "n", "judge": ["gpt-4", "pair-v2"], "turn": 1}
    prompts = {"g1_user_prompt": ab.messages[-1]["content"], "g2_user_prompt": ba.messages[-1]["content"]}
    said = {"g1_judgment": "[[A]]", "g2_judgment": "[[B]]", "g1_winner": "model_1", "g2_winner": "model_1"}
    return {**row, **prompts, **said, **more}


def pairs_of(folder: Path, other: Path) -> list[Question]:
    sides = (read_answers(place, "ref_gpt4", "base") for place in (folder, other))
    return list(Asker.of("ref_gpt4", paired=True).pairs(REF, *sides, 1))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    said = {prompt.item_id: (f"other words on {prompt.item_id}",) for prompt in REF}
    return write_answers(tmp_path / "there", "ref_gpt4", "base", said)


@pytest.mark.parametrize("is_second", [False, True])
def test_pairs_keep_their_order_whichever_model_the_folder_is_of(is_second: bool, folder: Path, other: Path, capsys):
    ab, ba, ab2, ba2 = pairs_of(folder, other)
    rows = [pair(ab, ba), pair(ab2, ba2, g1_judgment="[[C]]", g1_winner="tie")]
    here, there = (other, folder) if is_second else (folder, other)
    named = ("n", "m") if is_second else ("m", "n")
    words = ["--against", str(there), "--against-model", named[1], "--model", named[0]]
    assert taken(here, rows, *words) == 0
    out = capsys.readouterr().out
    assert "4 of 4 questions with a reply\n" in out
    assert "read here as the file says" in out
    (pairs,) = read_folder(here)["ref_gpt4"].pairs
    assert all(one.reply for one in pairs.judgements)
    assert cli.main(["report", str(here)]) == 0
    (found,) = files.read_json(here / "evaluation.json")["pairs"]
    assert (found["wins"], found["ties"], found["losses"]) == ((0, 1, 1) if is_second else (1, 1, 0))


def test_a_pair_file_needs_the_other_answers(folder: Path, other: Path, capsys):
    rows = [pair(*pairs_of(folder, other)[:2])]
    assert taken(folder, rows) == 2
    assert "--against: not given" in (said := capsys.readouterr().err)
    assert "there are pairs with: n" in said
    assert taken(folder, rows, "--against", str(folder), "--against-model", "m") == 2
    assert "its answers are of 'm' too" in capsys.readouterr().err
    assert taken(folder, [single(asked(folder)[0])], "--against", str(other)) == 2
    assert "has judgements of single answers" in capsys.readouterr().err


# --- bad files and words


ROW = {"question_id": "aya-0", "model": "m", "judge": ["gpt-4", "single-v1"], "judgment": "[[7]]", "turn": 1}
PAIR = {"question_id": 1, "model_1": "m", "model_2": "n", "judge": "j", "g1_judgment": "", "g2_judgment": ""}
BAD = {
    "nothing": ("", "there is no judgement in it"),
    "no JSON": ('{"question_id": 1', "line 1: no JSON"),
    "answers": ('{"question_id": 1, "choices": []}', "its keys are question_id, choices; known forms are FastChat"),
    "two forms": (json.dumps(ROW) + "\n" + json.dumps(PAIR), "line 2: no model; FastChat's single judgements have"),
    "a score that is not a number": (json.dumps({**ROW, "score": float("nan")}), "line 1: score is nan, not a number"),
    "a huge score": (json.dumps({**ROW, "score": 10**300}), "score is 1000"),
    "a score in words": (json.dumps({**ROW, "score": "seven"}), "score is 'seven', not a number"),
    "a number for a judgement": (json.dumps({**ROW, "judgment": 7}), "judgment is a number, not a text"),
    "half a character": (json.dumps({**ROW, "judgment": "\ud800"}), "half a character"),
    "a turn of zero": (json.dumps({**ROW, "turn": 0}), "turn is 0, not a whole number from 1"),
    "a turn of truth": (json.dumps({**ROW, "turn": True}), "turn is True"),
    "a judge that clears the screen": (json.dumps({**ROW, "judge": "gpt\x1b[2J"}), "not a name"),
    "a judge without a name": (json.dumps({**ROW, "judge": " "}), "judge is ' ', not a name"),
    "no judge": (json.dumps({**ROW, "judge": []}), "judge is a list, not a text"),
    "one model twice": (json.dumps({**PAIR, "model_2": "m"}), "model_1 and model_2 are both 'm'"),
    "another model": (json.dumps({**ROW, "model": "x"}), "no judgement of 'm'"),
    "two judges": (json.dumps(ROW) + "\n" + json.dumps({**ROW, "judge": "claude"}), "replies of claude, gpt-4; name"),
    "nothing about these answers": (json.dumps({**ROW, "question_id": 9}), "no reply of it is to what these answers"),
    "a zero byte": (json.dumps(ROW).replace("gpt", "g\0t"), "no JSON (Invalid control character"),
    "not UTF-8": (b'{"question_id": "\xff"}', "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line_and_leaves_no_judgements(what: str, folder: Path, capsys):
    content, expected = BAD[what]
    path = folder.parent / "bad"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["import", "judgements", str(path), "--out", str(folder), "--model", "m"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (folder / "judgements").exists()


BAD_WORDS = {
    "no answers": (["--out", "EMPTY"], "no answers in it that judges grade"),
    "another benchmark": (["--benchmark", "mt_bench"], "no answered benchmark 'mt_bench'"),
    "another side": (["--side", "globl"], "no side with answers 'globl'"),
    "another judge": (["--judge", "claude"], "no judge in the file 'claude'"),
    "no such file": (["FILE"], "No such file or directory; give a file"),
}


@pytest.mark.parametrize("what", BAD_WORDS)
def test_bad_words_are_one_line(what: str, folder: Path, capsys):
    words, expected = BAD_WORDS[what]
    (folder.parent / "empty").mkdir()
    path = written(folder, [ROW])
    given = [str(folder.parent / "empty") if word == "EMPTY" else word for word in words]
    if given == ["FILE"]:
        path, given = folder / "none.jsonl", []
    assert cli.main(["import", "judgements", str(path), "--out", str(folder), "--model", "m", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


def test_a_model_must_be_named_where_answers_were_made_here(folder: Path, capsys):
    words = ["import", "judgements", str(written(folder, [ROW])), "--out", str(folder)]
    assert cli.main(words) == 2
    assert "--model: not given, and the answers of base in" in capsys.readouterr().err
    write_answers(folder, "ref_gpt4", "global")
    assert cli.main([*words, "--model", "m"]) == 2
    assert "--side: not given" in capsys.readouterr().err
    write_answers(folder, "mini", "global")
    assert cli.main([*words, "--model", "m"]) == 2
    assert "--benchmark: not given" in capsys.readouterr().err


def test_nobody_can_ask_an_imported_judge():
    with pytest.raises(UserError, match="nobody can ask it"):
        judge_of(imported_preset("gpt-4"))


def test_a_board_says_that_a_judge_was_imported(folder: Path):
    assert taken(folder, [single(question) for question in asked(folder)]) == 0
    stated = files.read_json(folder / "judgements" / ID / "judge.json")
    run: Any = SimpleNamespace(where="runs/0", files=SimpleNamespace(json=lambda name: stated))
    preset, (problem,) = judged._preset(run, ID)
    assert preset is not None
    assert preset.id == ID == replace(preset, note="").id
    assert (problem.code, problem.level) == ("judge-imported", "flagged")


@pytest.mark.parametrize(
    "stated",
    [
        "[" * 100_000, "7", '{"imported": 7}',
        '{"imported": {"ref_gpt4/base": 7}}', '{"imported": {"ref_gpt4/base": {}}}',
        '{"imported": {"ref_gpt4/\\u001b[2J": {"replies": 2, "checked": 2}}}',
    ],
)  # fmt: skip
def test_a_judge_file_of_somebody_else_says_nothing_that_it_should_not(stated: str, tmp_path: Path):
    (tmp_path / "judge.json").write_text(stated)
    assert list(import_notes(tmp_path / "judge.json", "ref_gpt4")) == []


@pytest.mark.assets
def test_recorded_judgements_of_published_answers_are_taken_whole(tmp_path: Path, capsys):
    answers = Path(str(MIRROR)) / "mt_bench" / "model_answer" / "alpaca-13b.jsonl"
    out = tmp_path / "out"
    assert cli.main(["import", "answers", str(answers), "--benchmark", "mt_bench", "--out", str(out)]) == 0
    assert answers_file(out, "mt_bench", "base").is_file()
    rows = [single(q, 1 + n % 10, model="alpaca-13b", turn=q.slot.turn) for n, q in enumerate(asked(out, "mt_bench"))]
    assert cli.main(["import", "judgements", str(written(out, rows)), "--out", str(out)]) == 0
    assert "160 of 160 questions with a reply\n" in capsys.readouterr().out
