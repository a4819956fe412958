"""Imported judgements whose judge.json was lost or changed by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judged import write_answers

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.judges.questions import Asker
from fedllm_bench.evaluation.judging.judgement_import import import_notes
from fedllm_bench.evaluation.judging.judging import read_answers
from fedllm_bench.evaluation.records import Prompt, prompts_file, read_records


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """An import of one reply, which was made once."""
    folder = write_answers(tmp_path / "here", "ref_gpt4", "base")
    prompts = read_records(prompts_file(folder, "ref_gpt4"), Prompt)
    first, *_ = Asker.of("ref_gpt4").single(prompts, read_answers(folder, "ref_gpt4", "base"), 1)
    row = {"question_id": first.slot.item_id, "model": "m", "judge": ["gpt-4", "x"], "judgment": "[[7]]", "score": 7}
    (tmp_path / "rows").write_text(json.dumps(row))
    found = ["import", "judgements", str(tmp_path / "rows"), "--out", str(folder), "--model", "m"]
    assert cli.main(found) == 0
    return found


@pytest.mark.parametrize("content", [None, "", "null", "[]", "{}", "[" * 100_000])
def test_a_judge_file_that_was_lost_comes_back_with_the_same_import(
    content: str | None, words: list[str], tmp_path: Path
):
    (path,) = (tmp_path / "here" / "judgements").glob("*/judge.json")
    whole = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    assert cli.main(words) == 0
    assert path.read_text() == whole
    assert cli.main(["report", str(tmp_path / "here")]) == 0


def test_the_same_import_writes_nothing(words: list[str], tmp_path: Path):
    (path,) = (tmp_path / "here" / "judgements").glob("*/judge.json")
    before = path.stat().st_mtime_ns
    assert cli.main(words) == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("count", [-1, True, 10**30, "7", 1.5])
def test_a_count_that_is_none_makes_no_note(count: Any, tmp_path: Path):
    files.write_json(tmp_path / "judge.json", {"imported": {"mt_bench/base": {"replies": count, "checked": 1}}})
    assert not list(import_notes(tmp_path / "judge.json", "mt_bench"))
