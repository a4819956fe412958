"""A run that its budget of bytes ended can be submitted; one that merely stopped cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from submissions import Forgery, codes, context, honest

from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate

ROUNDS = "runs/0/rounds.jsonl.gz"
OF_ROUND = 2 * 3 * 327_680 / 1024**2  # MB of three adapters of rank 8 on the embedded base, up and down


@pytest.mark.slow
def test_an_ended_run_is_accepted_and_a_shortened_one_is_not(tiny_split: Split, tmp_path: Path):
    settings = ("federation.rounds=4", f"communication.budget_mb={OF_ROUND * 2.5}")
    words = [word for setting in settings for word in ("--set", setting)]
    folder = honest(tiny_split, tmp_path, *words, answers=False)
    report = validate.validate(folder, context(tiny_split))
    assert codes(report) == {"few-seeds"}, report.problems
    assert len(Forgery(folder).lines(ROUNDS)) == 2
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "short")))
    forgery.set_lines(ROUNDS, lambda lines: lines.pop())
    forgery.fix_claims()
    assert "rounds" in codes(validate.validate(forgery.folder, context(tiny_split)), "refused")
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "claimed")))
    forgery.json("runs/0/config.json", lambda config: config["communication"].update(budget_mb=OF_ROUND))
    forgery.fix_claims()
    assert "bytes" in codes(validate.validate(forgery.folder, context(tiny_split)), "refused")
