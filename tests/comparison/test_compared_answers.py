"""Folders of answers that no run of the suite left are compared like runs."""

from __future__ import annotations

import json
from pathlib import Path

from judged import write_answers

from fedllm_bench import cli
from fedllm_bench.evaluation.benchmarks import BENCHMARKS, PromptContext

HARMLESS = BENCHMARKS["harmless"].prompts(PromptContext())


def test_two_folders_of_answers_are_compared(tmp_path: Path, capsys):
    refusal = "I'm sorry, but I can't help with that."
    for name, count in (("a", 20), ("b", 40)):
        texts = [refusal if number < count else "Of course." for number in range(66)]
        rows = [{"id": prompt.item_id, "text": text} for prompt, text in zip(HARMLESS, texts, strict=True)]
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        words = ["import", "answers", str(path), "--benchmark", "harmless"]
        assert cli.main([*words, "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    told_by = " ".join(capsys.readouterr().out.split())
    assert "model A is better by 0.303" in told_by
    assert "n = 66 questions" in told_by


def test_answers_that_nobody_judged_are_not_compared_in_one_clear_line(tmp_path: Path, capsys):
    folder = write_answers(tmp_path / "a", "mt_bench", "base")
    assert cli.main(["compare", str(folder), str(folder)]) == 2
    assert "its answers have no scores yet; judge them first" in capsys.readouterr().err
