"""Answers made elsewhere become the records that judges, rules and reports take; what does not fit is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation import outside_files
from fedllm_bench.evaluation.answering.importing import imported, told
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, PromptContext
from fedllm_bench.evaluation.imported_files import read_rows
from fedllm_bench.evaluation.metrics.refusals import refuses
from fedllm_bench.evaluation.records import Prompt
from fedllm_bench.evaluation.scoring.answered import read_folder

MIRROR = os.environ.get("FEDLLM_BENCH_MIRROR")
PROMPTS = [
    Prompt(item_id="81", turns=("Write a poem.", "Make it shorter.")),
    Prompt(item_id="82", turns=("What is 2 plus 2?", "And plus 3?")),
    Prompt(item_id="83", turns=("Hello?", "Again?")),
]
SINGLE = [Prompt(item_id=str(number), turns=(f"Question {number}?",)) for number in range(3)]
HARMLESS = BENCHMARKS["harmless"].prompts(PromptContext())


def written(path: Path, rows: list[Any], *, array: bool = False) -> Path:
    text = json.dumps(rows) if array else "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def importing(path: Path, out: Path, benchmark: str = "harmless") -> list[str]:
    return ["import", "answers", str(path), "--benchmark", benchmark, "--out", str(out)]


def fastchat(item: int | str, *turns: str, **more: Any) -> dict[str, Any]:
    return {"question_id": item, "model_id": "m", "choices": [{"index": 0, "turns": list(turns)}], **more}


def of(rows: list[Any], tmp_path: Path, prompts=PROMPTS, **how: Any):
    return imported(*read_rows(written(tmp_path / "answers", rows, **how)), prompts)


# --- formats


FORMS: dict[str, Any] = {
    "FastChat's model_answer": lambda n: {"question_id": n, "model_id": "m", "choices": [{"turns": [f"Answer {n}"]}]},
    "alpaca_eval's outputs": lambda n: {"instruction": f" Question {n}?\n", "output": f"Answer {n}", "generator": "m"},
    "id and text": lambda n: {"id": str(n), "text": f"Answer {n}"},
    "a batch's output": lambda n: {
        "id": "batch_req_1", "custom_id": f"{n}#1", "error": None,
        "response": {"status_code": 200, "body": {"model": "m", "choices": [{"message": {"content": f" Answer {n}\n"},
                                                                             "finish_reason": "stop"}]}},
    },
    "lm-eval's samples": lambda n: {
        "doc_id": 9 - n, "doc": {"goal": f"Question {n}?"}, "target": "", "resps": [[f"Answer {n}"]],
        "filtered_resps": ["A"],
    },
}  # fmt: skip


@pytest.mark.parametrize("array", [False, True], ids=["lines", "array"])
@pytest.mark.parametrize("form", FORMS)
def test_each_format_gives_each_question_its_answer_in_any_order(form: str, array: bool, tmp_path: Path):
    found = of([FORMS[form](n) for n in (2, 0, 1)], tmp_path, SINGLE, array=array)
    assert found.form == form
    assert [answer.turns for answer in found.answers] == [("Answer 0",), ("Answer 1",), ("Answer 2",)]
    assert [answer.prompt_hash for answer in found.answers] == [prompt.hash for prompt in SINGLE]
    assert told(found) == "3 of 3 questions answered"


def test_turns_of_a_conversation_stay_together(tmp_path: Path):
    rows = [fastchat(82, "Four.", "Seven."), {**fastchat("81", "a", "b")}]
    answers = {answer.item_id: answer for answer in of(rows, tmp_path).answers}
    assert answers["82"].turns == ("Four.", "Seven.")
    assert [answers[item].is_whole for item in ("81", "82", "83")] == [True, True, False]


def test_prompts_of_one_text_take_the_answers_to_it_in_turn(tmp_path: Path):
    prompts = [Prompt(item_id=item, turns=("The same?",)) for item in ("a", "b")]
    found = of([{"instruction": "The same?", "output": text} for text in ("1", "2")], tmp_path, prompts)
    assert [answer.turns for answer in found.answers] == [("1",), ("2",)]


# --- what does not fit is counted and named


def test_missing_unknown_and_doubled_questions_are_counted_and_named(tmp_path: Path):
    rows = [
        fastchat(81, "a", "b"),
        fastchat(81, "a", "b"),
        fastchat(82, "x", "y"),
        fastchat(82, "x", "z"),
        fastchat(99, "?", "?"),
    ]
    found = of(rows, tmp_path)
    assert told(found) == (
        "1 of 3 questions answered, 1 without an answer (83), 1 with different answers (82), "
        "1 unknown to the benchmark (99)"
    )
    assert [answer.finish for answer in found.answers] == [("stop", "stop"), ("failed",) * 2, ("failed",) * 2]
    assert found.answers[1].turns == ("", "")  # neither of the two is taken for the answer


def test_an_answer_with_other_turns_is_kept_as_far_as_it_is_clear(tmp_path: Path):
    found = of([fastchat(81, "one"), fastchat(82, "1", "2", "3"), fastchat(83, "a", "b")], tmp_path)
    assert [answer.turns for answer in found.answers] == [("one", ""), ("", ""), ("a", "b")]
    assert [answer.finish[0] for answer in found.answers] == ["stop", "failed", "stop"]
    assert "2 with another number of turns (81, 82)" in told(found)


def test_further_choices_of_a_question_are_counted(tmp_path: Path):
    choices = [{"index": n, "turns": [f"a{n}", "b"]} for n in range(3)]
    found = of([{"question_id": 81, "choices": choices}], tmp_path)
    assert (found.answers[0].turns, found.more) == (("a0", "b"), 2)
    assert "2 further choices" in told(found)


BAD = {
    "nothing": ("", "there is no answer in it"),
    "no JSON": ("{'id': 1}", "line 1: no JSON"),
    "half a line": ('{"id": "h00", "text": "x"}\n{"id": "h0', "line 2: no JSON"),
    "a pretty-printed object": ('{\n "id": "h00",\n "text": "x"\n}', "one JSON object a line"),
    "a list of numbers": ("[1, 2]", "a number, not an object"),
    "a key twice": ('{"id": "h00", "text": "x", "text": "y"}', "line 1: an object has the key 'text' twice; rename"),
    "unknown keys": ('{"prompt": "x", "completion": "y"}', "known forms are FastChat"),
    "two formats": ('{"id": "h00", "text": "x"}\n{"instruction": "x", "output": "y"}', "line 2: its keys are"),
    "a number for a text": ('{"id": "h00", "text": 3}', "line 1: text is a number, not a text"),
    "null for a text": ('{"id": "h00", "text": null}', "text is null, not a text"),
    "null for an id": ('{"id": null, "text": "x"}', "the id of the question is null"),
    "half a character": ('{"id": "h00", "text": "\\ud800"}', "half a character"),
    "no choices": ('{"question_id": 1, "choices": []}', "choices is no list of objects"),
    "a turn that is no text": ('{"question_id": 1, "choices": [{"turns": [{"role": "x"}]}]}', "is an object, not"),
    "a huge whole number": ('{"id": ' + "9" * 5000 + ', "text": "x"}', "line 1: no JSON (Exceeds the limit"),
    "a zero byte": ('{"id": "h00", "text": "a\0b"}', "line 1: no JSON (Invalid control character"),
    "UTF-16": ('{"id": "h00", "text": "x"}'.encode("utf-16"), "not UTF-8"),
    "a batch without ids": ('{"custom_id": 7, "response": {}}', "custom_id is a number, not a text"),
    "a batch that failed as a whole": (
        '{"custom_id": "h00#1", "response": null, "error": {"code": "expired"}}',
        "0 of 66 questions answered, 65 without an answer",
    ),
    "log-likelihoods": ('{"doc": {"question": "x"}, "resps": [[[-1.5, false]]]}', "log-likelihoods are no answers"),
    "another benchmark": ('{"id": "nobody", "text": "x"}', "1 unknown to the benchmark (nobody)"),
    "a deep nest": ('{"id": "h00", "text": ' + "[" * 100_000 + "]" * 100_000 + "}", "no JSON"),
    "a pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
                  "answers: a Git LFS pointer, not the file itself; run git lfs pull"),
    "a web page": ("\n<!DOCTYPE html><html></html>", "answers: a web page (HTML or XML), perhaps of"),
    "not UTF-8": (b'{"id": "h00", "text": "\xff"}', "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_be_imported_is_one_line_and_writes_nothing(what: str, tmp_path: Path, capsys):
    content, expected = BAD[what]
    (tmp_path / "answers").write_bytes(content if isinstance(content, bytes) else content.encode())
    words = importing(tmp_path / "answers", tmp_path / "out")
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_imported_is_named_as_one(tmp_path: Path, capsys):
    words = importing(tmp_path, tmp_path / "out")
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said == f"fedllm-bench: {tmp_path}: a folder, not a file; give the file in it\n"
    assert cli.main([*words[:2], "/dev/zero", *words[3:]]) == 2
    assert "no plain file" in capsys.readouterr().err
    assert cli.main([*words[:2], str(tmp_path / "none"), *words[3:]]) == 2
    assert "No such file or directory; give a file" in capsys.readouterr().err


# --- the command


def import_harmless(tmp_path: Path, texts: list[str], *more: str, name: str = "mine.jsonl") -> int:
    rows = [{"id": prompt.item_id, "text": text} for prompt, text in zip(HARMLESS, texts, strict=False)]
    path = written(tmp_path / name, rows)
    return cli.main([*importing(path, tmp_path / "out"), *more])


def test_imported_answers_are_reported_and_evaluated_like_any_others(tmp_path: Path, capsys):
    texts = ["I'm sorry, but I can't help with that."] * 33 + ["Of course: do this."] * 33
    assert import_harmless(tmp_path, texts) == 0
    assert "66 of 66 questions answered" in capsys.readouterr().out
    assert cli.main(["evaluate", str(tmp_path / "out")]) == 0
    told_by = capsys.readouterr().out
    assert "0.500" in told_by
    assert refuses(texts[0])
    assert "harmless" in files.read_json(tmp_path / "out" / "evaluation.json")["benchmarks"]


def test_the_plan_says_that_answers_were_imported_and_from_which_file(tmp_path: Path):
    assert import_harmless(tmp_path, ["x"] * 66) == 0
    plan = files.read_json(tmp_path / "out" / "answers" / "harmless" / "plan.json")
    sha256 = files.sha256_file(tmp_path / "mine.jsonl")
    assert (plan["model"], plan["template"]["name"]) == ({"name": "imported"}, "imported")
    assert plan["sides"] == {"base": f"sha256:{sha256}"}
    assert plan["environment"]["imported"]["base"]["sha256"] == sha256
    assert str(tmp_path) not in json.dumps(plan)


def test_the_same_import_changes_nothing_and_another_file_is_refused(tmp_path: Path, capsys):
    assert import_harmless(tmp_path, ["x"] * 66) == import_harmless(tmp_path, ["x"] * 66) == 0
    before = (tmp_path / "out" / "answers" / "harmless" / "base.jsonl").read_bytes()
    assert import_harmless(tmp_path, ["y"] * 66, name="other.jsonl") == 2
    assert "the imported file of side base is another one" in capsys.readouterr().err
    assert import_harmless(tmp_path, ["y"] * 66, "--side", "global", name="other.jsonl") == 0
    assert (tmp_path / "out" / "answers" / "harmless" / "base.jsonl").read_bytes() == before
    assert read_folder(tmp_path / "out")["harmless"].sides == ["base", "global"]


BAD_WORDS = {
    "two benchmarks": (["--benchmark", "harmless,advbench"], "give one benchmark"),
    "an unknown benchmark": (["--benchmark", "harmles"], "did you mean 'harmless'"),
    "a model that the file does not name": (["--model", "x"], "has no answer of it; it names nobody"),
    "the file of prompts": (["--side", "prompts"], "'prompts' cannot name a side"),
    "a side that is no name": (["--side", "a/b"], "cannot name a file"),
}


def test_the_answers_of_one_model_of_several_are_taken(tmp_path: Path, capsys):
    rows = [{"id": prompt.item_id, "text": name, "model": name} for prompt in HARMLESS for name in ("one", "other")]
    words = importing(written(tmp_path / "both.jsonl", rows), tmp_path / "out")
    assert cli.main(words) == 2
    assert "66 with different answers" in capsys.readouterr().err
    assert cli.main([*words, "--model", "other"]) == 0
    answers = read_folder(tmp_path / "out")["harmless"].answers["base"]
    assert {answer.turns for answer in answers.values()} == {("other",)}
    assert cli.main([*words, "--model", "one"]) == 2  # another model of the same file is another import
    assert "the imported file of side base is another one" in capsys.readouterr().err


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_html(tmp_path: Path, capsys):
    rows = [{"id": prompt.item_id, "text": "<script>alert(1)</script>"} for prompt in HARMLESS]
    path = written(tmp_path / "bom.jsonl", rows)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert cli.main(importing(path, tmp_path / "out")) == 0
    assert cli.main(["report", str(tmp_path / "out")]) == 0
    assert "<script>alert(1)" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("bound", ["MOST_BYTES", "MOST_OF_LINE", "MOST_OBJECTS"])
def test_sizes_are_bounded(bound: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(outside_files, bound, 3)
    assert import_harmless(tmp_path, ["x"] * 66) == 2
    assert "more than 3" in capsys.readouterr().err


def test_an_import_that_was_killed_before_it_wrote_an_answer_binds_nobody(tmp_path: Path):
    assert import_harmless(tmp_path, ["x"] * 66) == 0
    (tmp_path / "out" / "answers" / "harmless" / "base.jsonl").unlink()
    assert import_harmless(tmp_path, ["y"] * 66, name="other.jsonl") == 0


def test_the_option_of_before_names_the_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["answer", "--import", "mine.jsonl", "--metrics", "harmless", "--out", "x"])
    assert "fedllm-bench import answers mine.jsonl --benchmark NAME --out DIR" in capsys.readouterr().err


@pytest.mark.parametrize("what", BAD_WORDS)
def test_bad_words_are_refused_in_one_line(what: str, tmp_path: Path, capsys):
    words, expected = BAD_WORDS[what]
    assert import_harmless(tmp_path, ["x"] * 66, *words) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--limit", "3"], "--limit"),
        (["--threads", "1"], "--threads"),
        (["--metrics", "mt_bench"], "has no answers to it"),
    ],
)
def test_a_folder_of_answers_is_not_asked_again(words: list[str], expected: str, tmp_path: Path, capsys):
    assert import_harmless(tmp_path, ["x"] * 66) == 0
    assert cli.main(["evaluate", str(tmp_path / "out"), *words]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.assets
@pytest.mark.parametrize("model", ["alpaca-13b", "gpt-4", "vicuna-13b-v1.2"])
def test_published_answers_to_mt_bench_are_imported_whole(model: str, tmp_path: Path):
    path = Path(str(MIRROR)) / "mt_bench" / "model_answer" / f"{model}.jsonl"
    words = importing(path, tmp_path / "out", "mt_bench")
    assert cli.main(words) == 0
    material = read_folder(tmp_path / "out")["mt_bench"]
    right = {str(row["question_id"]): tuple(row["choices"][0]["turns"]) for row in files.read_jsonl(path)}
    assert {item: answer.turns for item, answer in material.answers["base"].items()} == right
    assert len(right) == 80
