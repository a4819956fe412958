"""The benchmark of large boards: options, what it makes, and that it says so where there is nothing to start from."""

from __future__ import annotations

import pytest
from shipped import SUBMISSIONS

from fedllm_bench.benchmarks.perf import board
from fedllm_bench.leaderboard.submission.bundle import open_bundle


def test_help_has_examples_and_counts_are_checked(capsys, tmp_path):
    with pytest.raises(SystemExit):
        board.main(["--help"])
    assert "examples:" in capsys.readouterr().out
    for words in (["--count", "0"], ["--from", str(tmp_path)]):
        with pytest.raises(SystemExit) as caught:
            board.main(words)
        assert caught.value.code == 2
    assert "no submission of a method" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_that_fails_is_no_number(tmp_path):
    with pytest.raises(RuntimeError, match="is no folder"):
        board.measured(["build", "--submissions", str(tmp_path / "none"), "--out", str(tmp_path / "out")], tmp_path)


def test_what_is_made_of_the_shipped_submissions_is_a_submission(tmp_path):
    found = [source for source in board.sources(SUBMISSIONS) if source.said["method"] == "fedavg"]
    (folder,) = board.make(found, 1, tmp_path)
    bundle, problems = open_bundle(folder)
    assert [problem.code for problem in problems] == []
    assert [run.seed for run in bundle.runs()] == [0, 1, 2]
    assert all(run.json("results.json")["metrics"]["heldout"]["after"]["mean"] > 0 for run in bundle.runs())
