"""The benchmark of large boards: its options, and that it says so where there is nothing to start from."""

from __future__ import annotations

import pytest

from fedllm_bench.benchmarks.perf import board


def test_help_has_examples_and_counts_are_checked(capsys, tmp_path):
    with pytest.raises(SystemExit):
        board.main(["--help"])
    assert "examples:" in capsys.readouterr().out
    for words in (["--count", "0"], ["--from", str(tmp_path)]):
        with pytest.raises(SystemExit) as caught:
            board.main(words)
        assert caught.value.code == 2
    assert "no submission of a method" in capsys.readouterr().err


def test_a_step_that_fails_is_no_number(tmp_path):
    with pytest.raises(RuntimeError, match="is no folder"):
        board.measured(["build", "--submissions", str(tmp_path / "none"), "--out", str(tmp_path / "out")], tmp_path)
