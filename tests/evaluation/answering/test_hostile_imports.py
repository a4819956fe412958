"""Imports into folders that others made or that were changed, and batches that hold half an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedllm_bench import cli
from fedllm_bench.common import files

FAILED_ROWS: dict[str, dict[str, Any]] = {
    "an error beside an answer": {"error": {"message": "out of time"}},
    "a status of an error": {"status_code": 500},
}


def batch(item: str, *, error: Any = None, status_code: int = 200, model: str = "m") -> dict[str, Any]:
    choices = [{"message": {"content": "half an"}, "finish_reason": "stop"}]
    body = {"model": model, "choices": choices}
    return {"custom_id": item, "error": error, "response": {"status_code": status_code, "body": body}}


def imported(folder: Path, rows: list[Any]) -> int:
    (folder / "rows").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return cli.main(
        ["import", "answers", str(folder / "rows"), "--benchmark", "harmless", "--out", str(folder / "out")]
    )


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    assert imported(tmp_path, [{"id": "h00", "text": "x", "model": "m"}]) == 0
    return tmp_path / "out" / "answers" / "harmless"


@pytest.mark.parametrize("what", FAILED_ROWS)
def test_what_a_batch_kept_of_a_failed_answer_is_none(what: str, tmp_path: Path, capsys):
    assert imported(tmp_path, [batch("h00"), batch("h01", **FAILED_ROWS[what])]) == 0
    assert "1 of 66 questions answered" in capsys.readouterr().out


def test_half_a_character_in_the_model_of_a_batch_is_one_line(tmp_path: Path, capsys):
    assert imported(tmp_path, [batch("h00", model="\ud800")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rows, line 1: model has half a character" in line
    assert not (tmp_path / "out").exists()


def test_the_name_of_a_model_does_not_fill_the_screen(tmp_path: Path, capsys):
    assert imported(tmp_path, [{"id": "h00", "text": "x", "model": "m" * 100_000}]) == 0
    assert len(capsys.readouterr().out) < 1000


@pytest.mark.parametrize("stated", [None, [], {"base": 5}, 7])
def test_a_plan_that_says_nonsense_of_imports_is_no_traceback(stated: Any, answers: Path, tmp_path: Path):
    plan = files.read_json(answers / "plan.json")
    files.write_json(answers / "plan.json", {**plan, "environment": {"imported": stated}})
    assert imported(tmp_path, [{"id": "h00", "text": "x", "model": "m"}]) == 0
    assert cli.main(["report", str(tmp_path / "out")]) == 0


@pytest.mark.parametrize("content", [None, "", "{", "two"])
def test_questions_that_were_lost_come_back_with_the_same_import(content: str | None, answers: Path, tmp_path: Path):
    path = answers / "prompts.jsonl"
    whole = path.read_text()
    path.unlink() if content is None else path.write_text(whole * 2 if content == "two" else content)
    assert imported(tmp_path, [{"id": "h00", "text": "x", "model": "m"}]) == 0
    assert path.read_text() == whole


def test_a_link_in_the_place_of_a_part_leads_nowhere(tmp_path: Path):
    (tmp_path / "precious").write_text("mine")
    folder = tmp_path / "out" / "answers" / "harmless"
    folder.mkdir(parents=True)
    for name in ("base.jsonl", "prompts.jsonl", "plan.json"):
        (folder / f"{name}.part").symlink_to(tmp_path / "precious")
    assert imported(tmp_path, [{"id": "h00", "text": "x"}]) == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_link_in_the_place_of_the_lock_is_one_line(tmp_path: Path, capsys):
    (tmp_path / "out" / "answers").mkdir(parents=True)
    (tmp_path / "out" / "answers" / ".lock").symlink_to(tmp_path / "elsewhere")
    assert imported(tmp_path, [{"id": "h00", "text": "x"}]) == 2
    assert ".lock is a link; remove it" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()


def test_a_side_whose_import_was_killed_before_its_answers_may_be_of_another_file(answers: Path, tmp_path: Path):
    (answers / "base.jsonl").rename(answers / "global.jsonl")  # the plan names base, whose answers are not there
    assert imported(tmp_path, [{"id": "h01", "text": "y", "model": "n"}]) == 0
    about = files.read_json(answers / "plan.json")["environment"]["imported"]["base"]
    assert about["models"] == ["n"]
    assert (answers / "global.jsonl").is_file()


def test_files_may_be_named_in_another_order_the_next_time(tmp_path: Path):
    for name, item in (("one", "h00"), ("two", "h01")):
        (tmp_path / name).write_text(json.dumps({"id": item, "text": "x"}))
    words = ["--benchmark", "harmless", "--out", str(tmp_path / "out")]
    for names in (("one", "two"), ("two", "one")):
        assert cli.main(["import", "answers", *(str(tmp_path / name) for name in names), *words]) == 0
