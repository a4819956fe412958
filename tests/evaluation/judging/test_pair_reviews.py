"""Reviews of pairs as the Vicuna blog has them: two scores on the first line, and their sums."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.evaluation.judging.pair_reviews import pair_scores, totals_of
from fedllm_bench.scores.score import Score
from fedllm_bench.scores.summaries import paired_difference, per_cluster

READ = {
    "8 9\nAssistant 2 is better.": (8.0, 9.0),
    "\n 7.5   10 \nBoth are good.": (7.5, 10.0),
    "8, 9\nText": (8.0, 9.0),
    "8,5 9\nText": (8.5, 9.0),
    "**8 9**\nText": (8.0, 9.0),
    "\uff18 \uff19\nText": (8.0, 9.0),
    "8 9": (8.0, 9.0),
    "9 8\n10 10\nlater lines say nothing": (9.0, 8.0),
}
UNSCORED = {
    "": "the review is empty",
    "Assistant 1 gets 8 and Assistant 2 gets 9.": "the first line is not two scores",
    "8\n9": "the first line is not two scores",
    "8 9 7\nText": "the first line is not two scores",
    "8/10 9/10\nText": "the first line is not two scores",
    "0 9\nText": "a score is not from 1 to 10",
    "8 95\nText": "a score is not from 1 to 10",
    "-8 9\nText": "the first line is not two scores",
    "I cannot rate this.\n8 9": "the first line is not two scores",
}


@pytest.mark.parametrize("text", READ)
def test_two_scores_on_the_first_line_are_read(text: str):
    assert pair_scores(text) == (READ[text], "")


@pytest.mark.parametrize("text", UNSCORED)
def test_anything_else_is_unscored_with_a_reason(text: str):
    assert pair_scores(text) == (None, UNSCORED[text])


def written(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "reviews.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_sums_and_their_difference_are_those_of_the_projects_own_statistics(tmp_path: Path):
    rng = np.random.default_rng(0)
    scores = [(int(a), int(b)) for a, b in rng.integers(1, 11, (80, 2))]
    rows = [{"question_id": n, "text": f"{a} {b}\nWhy.", "score": [0, 0]} for n, (a, b) in enumerate(scores)]
    (pair,) = totals_of(written(tmp_path, rows))["reviews"]
    assert pair["models"] == ["Assistant 1", "Assistant 2"]
    assert [pair["totals"][name]["total"] for name in pair["models"]] == pytest.approx(
        [sum(c) for c in zip(*scores, strict=True)]
    )
    sides = [
        per_cluster([Score(str(n), float(s[i]), "", cluster=str(n)) for n, s in enumerate(scores)]) for i in (0, 1)
    ]
    right = paired_difference(*sides)
    found = pair["difference"]
    assert [found["total"], found["ci_low"], found["ci_high"]] == pytest.approx(
        [80 * right.mean, 80 * right.ci_low, 80 * right.ci_high]
    )


def test_a_question_in_both_orders_counts_once_and_names_keep_their_scores(tmp_path: Path):
    rows = [
        {"question_id": 1, "text": "8 2\n", "model_1": "x", "model_2": "y"},
        {"question_id": 1, "text": "4 6\n", "model_1": "y", "model_2": "x"},
        {"question_id": 2, "text": "5 5\n", "model_1": "x", "model_2": "y"},
        {"question_id": 3, "text": "no\n", "model_1": "x", "model_2": "y"},
    ]
    (pair,) = totals_of(written(tmp_path, rows))["reviews"]
    assert {name: total["total"] for name, total in pair["totals"].items()} == {"x": 7 + 5, "y": 3 + 5}
    assert (pair["totals"]["x"]["questions"], pair["unscored"]) == (2, {"the first line is not two scores": 1})


def test_the_command_shows_sums_and_what_is_unscored(tmp_path: Path, capsys):
    rows = [{"question_id": n, "text": "8 9\n" if n else "none"} for n in range(4)]
    path = written(tmp_path, rows)
    assert cli.main(["judge-check", "--reviews", str(path), "--json", str(tmp_path / "sums.json")]) == 0
    told = capsys.readouterr().out
    assert "24.0" in told
    assert "Reviews   4, 1 unscored (the first line is not two scores)" in told
    assert files.read_json(tmp_path / "sums.json")["file"]["sha256"] == files.sha256_file(path)


BAD = {
    "nothing": ("", "there is no review in it"),
    "no JSON": ("8 9\n", "line 1: no JSON"),
    "no text": ('{"question_id": 1}', "no review; it has question_id and text"),
    "no question": ('{"text": "8 9"}', "no review"),
    "a number": ("3", "no review"),
    "nobody named": (
        '{"question_id": 1, "text": "8 9"}\n{"question_id": 1, "text": "9 8"}',
        "reviewed 2 times and nobody",
    ),
    "half a character": ('{"question_id": 1, "text": "8 9", "model_1": "\\ud800", "model_2": "x"}', "half a char"),
    "a name that moves the cursor": (
        '{"question_id": 1, "text": "8 9", "model_1": "\\u001b[2J", "model_2": "x"}',
        "not a n",
    ),
    "one model twice": ('{"question_id": 1, "text": "8 9", "model_1": "x", "model_2": "x"}', "give two names"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_one_line_and_ends_with_2(what: str, tmp_path: Path, capsys):
    (tmp_path / "reviews").write_text(BAD[what][0], encoding="utf-8")
    assert cli.main(["judge-check", "--reviews", str(tmp_path / "reviews")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert BAD[what][1] in line
