"""What the sequence length took: counted for each part, in results.json and on the terminal, silent where nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from bench_runs import quick, run
from payloads import PAYLOAD

from fedllm_bench.common import files
from fedllm_bench.data.chat import template_text
from fedllm_bench.data.manifest import PARTS, Split
from fedllm_bench.data.pairs import encode_pairs, tokenise_pairs
from fedllm_bench.data.tokens import encode, tokenise_split
from fedllm_bench.report.tables import terminal_table
from fedllm_bench.results.cuts import about_cuts, cuts_block
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.score_files import read_scores

MINI = template_text("mini")
LENGTH = 16  # cuts some rows of each part, and leaves nothing of a few


def expected(examples: list[list[Any]]) -> dict[str, int]:
    """By hand, from the whole sequences of each row."""
    left = [[int(sequence.counted[:LENGTH].sum()) for sequence in example] for example in examples]
    total = sum(sequence.num_counted for example in examples for sequence in example)
    kept = sum(sum(counts) for counts in left if all(counts))
    return {
        "num_rows": len(examples),
        "num_cut": sum(any(len(sequence.ids) > LENGTH for sequence in example) for example in examples),
        "num_skipped": sum(not all(counts) for counts in left),
        "num_counted_tokens": kept,
        "num_lost_tokens": total - kept,
    }


@pytest.mark.parametrize("task", ["sft", "preference"])
def test_each_part_counts_its_own_rows_and_tokens(task, tiny_split: Split, pair_split: Split, tiny_model, tmp_path):
    tokenizer = tiny_model.tokenizer
    if task == "sft":
        parts = tokenise_split(tiny_split, tokenizer, MINI, LENGTH, tmp_path)
        whole = {part: [[row] for row in encode(tiny_split.rows(part), tokenizer, MINI)] for part in PARTS}
    else:
        parts = tokenise_pairs(pair_split, tokenizer, MINI, LENGTH, tmp_path)
        rows = {part: pair_split.preference_rows(part) for part in PARTS}
        whole = {part: [list(pair.sequences) for pair in encode_pairs(rows[part], tokenizer, MINI)] for part in PARTS}
    found = cuts_block(parts)
    assert found == {part: expected(whole[part]) for part in PARTS}
    assert found["train"]["num_cut"] > found["train"]["num_skipped"] > 0
    assert found["train"]["num_lost_tokens"] > 0


def cut(**parts: tuple[int, int, int, int, int]) -> dict[str, Any]:
    keys = ("num_rows", "num_cut", "num_skipped", "num_counted_tokens", "num_lost_tokens")
    payload = copy.deepcopy(PAYLOAD)
    payload["data"]["cut"] |= {part: dict(zip(keys, numbers, strict=True)) for part, numbers in parts.items()}
    return payload


def test_the_line_has_each_part_with_its_share_of_tokens():
    found = cut(train=(2729, 12, 1, 975, 25), heldout=(635, 0, 0, 100, 0), unseen=(0, 0, 0, 0, 0))
    (line,) = about_cuts(found)
    assert line == (
        "sequence length 256: 12 of 2,729 training rows cut, 1 skipped (2.5% of answer tokens lost); "
        "0 of 635 held-out rows cut, 0 skipped"
    )
    assert line in " ".join(terminal_table(found, 120).split())


@pytest.mark.parametrize("part", PARTS)
def test_one_row_of_any_part_is_enough_for_the_line_and_nothing_cut_is_silent(part):
    assert about_cuts(PAYLOAD) == []
    assert "sequence length" not in terminal_table(PAYLOAD, 120)
    assert len(about_cuts(cut(**{part: (9, 1, 0, 90, 1)}))) == 1
    assert len(about_cuts(cut(**{part: (9, 0, 1, 90, 0)}))) == 1  # no token to count, however short


def test_a_run_reports_what_it_was_not_trained_on_and_its_metric_misses_the_skipped_rows(
    tiny_split: Split, tiny_folder: Path, tmp_path: Path, capsys
):
    less = ("--model", str(tiny_folder), "--metrics", "heldout", "--set", f"local.sequence_length={LENGTH}")
    with quick():
        folder = run("fedavg", tiny_split.folder, tmp_path, *less, "--set", "federation.rounds=1")
    results = files.read_json(folder / "results.json")
    check_results(results)
    data = results["data"]
    assert data["sequence_length"] == LENGTH
    assert {part: data["cut"][part]["num_rows"] for part in PARTS} == {
        part: len(tiny_split.rows(part)) for part in PARTS
    }
    for side in ("before", "after"):
        scores = read_scores(folder, side, ["heldout"])["heldout"]
        for part in ("heldout", "unseen"):
            of = [score for score in scores if score.group["part"] == part]
            assert len([s for s in of if not s.is_scored]) == data["cut"][part]["num_skipped"]
            assert sum(s.weight for s in of if s.is_scored) == data["cut"][part]["num_counted_tokens"]
    assert data["cut"]["heldout"]["num_skipped"] > 0
    assert f"sequence length {LENGTH}: " in capsys.readouterr().out
