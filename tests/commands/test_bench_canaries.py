"""`fedllm-bench bench aya` with canaries: recorded, marked, scored, told in advance, and kept off boards."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_runs import assert_refused, quick, run, words

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.leaderboard.submission.tracks import load_tracks, rule_problems
from fedllm_bench.results.schema import check_results
from fedllm_bench.runs.folder import RunFolder

ASKED = ("--metrics", "heldout,canary_exposure,canary_auc,mia_auc,mia_tpr")
PLANTED = ("--set", "data.canaries=3", "--set", "data.canary_repeats=2")


@pytest.fixture(scope="module")
def finished(tiny_split, tiny_folder, tmp_path_factory) -> Path:
    with quick():
        out = tmp_path_factory.mktemp("canaries")
        return run("fedavg", tiny_split.folder, out, "--model", str(tiny_folder), *PLANTED, *ASKED)


def test_a_run_is_marked_and_its_folder_says_what_was_planted(finished):
    results = files.read_json(finished / "results.json")
    check_results(results)
    assert results["run"]["dataset"] == "mini-aya, 3 canaries planted"
    record = files.read_json(finished / "canaries.json")
    assert [len(one["rows"]) for one in record] == [2, 2, 2]
    assert len({one["client_id"] for one in record}) == 3
    metrics = results["metrics"]
    for name in ("canary_exposure", "canary_auc"):
        assert metrics[name]["before"]["n"] == metrics[name]["after"]["n"] == 3
    held = metrics["heldout"]["after"]["n_scored"]
    assert 0 < metrics["mia_auc"]["after"]["n_scored"] <= held
    assert metrics["heldout"]["after"]["n_scored"] == results["data"]["num_heldout_rows"]
    assert metrics["mia_tpr"]["local"]["n_scored"] == 0 < metrics["mia_auc"]["local"]["n_scored"]
    scores = files.read_jsonl(finished / "scores" / "canary_auc.after.jsonl")
    assert {score["cluster"] for score in scores} == {one["client_id"] for one in record}


@pytest.mark.parametrize("kind", ["fixed", "open", "unseen"])
def test_no_board_takes_a_run_with_canaries(kind, finished):
    problems = rule_problems(load_tracks()[f"mini-aya/{kind}"], RunFolder(finished).config)
    assert any("data.canaries" in problem.message for problem in problems)


def test_a_dry_run_counts_the_canaries(tiny_split, tiny_folder, tmp_path, capsys):
    with quick():
        more = ("--model", str(tiny_folder), *PLANTED, *ASKED, "--dry-run")
        assert cli.main(words("fedavg", tiny_split.folder, tmp_path, *more)) == 0
    assert "score the base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--metrics", "canary_auc"), "METRICS=canary_auc: no canary is planted; give --set data.canaries=16"),
        (("--set", "data.canaries=5000"), "data.canaries=5000 with data.canary_repeats=1: there is room for"),
        (("--set", "data.canaries=2", "--set", "data.swap_answers=true"), "data.canaries: data.swap_answers=true"),
    ],
    ids=["no canary", "too many", "swapped"],
)
def test_bad_input_is_one_line_and_leaves_nothing(more, said, tiny_split, tiny_folder, tmp_path, capsys):
    with quick():
        line = words("fedavg", tiny_split.folder, tmp_path / "out", "--model", str(tiny_folder), *more)
        assert_refused(line, tmp_path / "out", capsys, said)
