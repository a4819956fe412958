"""A run under a robust rule can be submitted, one with attackers cannot; a log that lies of the rule is found out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bench_runs import quick
from submissions import OPEN, Forgery, codes, context, honest, run_folders

from fedllm_bench import cli
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate

ROUNDS = "runs/0/rounds.jsonl.gz"
MEDIAN = ("--set", "aggregation.rule=median")
FLIP = ("--set", "attack.kind=sign_flip", "--set", "attack.clients=0,3")
SUBMIT = ("--allow-dirty", "--track", OPEN, "--team", "Lab", "--contact", "a@example.org", "--tuning", "none")


@pytest.mark.slow
def test_a_run_under_a_robust_rule_is_accepted_and_forged_ones_are_not(tiny_split: Split, tmp_path: Path):
    folder = honest(tiny_split, tmp_path, *MEDIAN, answers=False)
    report = validate.validate(folder, context(tiny_split))
    assert codes(report) == {"few-seeds"}, report.problems
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "log")))
    forgery.set_lines(ROUNDS, lambda lines: [{**line, "rule": "bulyan"} for line in lines])
    forgery.fix_claims()
    assert {"log", "cost"} <= codes(validate.validate(forgery.folder, context(tiny_split)), "refused")
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "none")))
    forgery.set_lines(ROUNDS, lambda lines: [{k: v for k, v in line.items() if k != "rule"} for line in lines])
    forgery.fix_claims()
    assert "log" in codes(validate.validate(forgery.folder, context(tiny_split)), "refused")
    forgery = Forgery(Path(shutil.copytree(folder, tmp_path / "results")))
    forgery.json("runs/0/results.json.gz", lambda results: results.update(aggregation=None))
    forgery.fix_claims()
    assert "cost" in codes(validate.validate(forgery.folder, context(tiny_split)), "refused")


@pytest.mark.slow
def test_submit_refuses_a_run_with_attackers_in_one_line(tiny_split: Split, tmp_path: Path, capsys):
    with quick():
        (folder,) = run_folders(tiny_split, tmp_path / "runs", *FLIP, answers=False, seeds=(0,))
    capsys.readouterr()
    assert cli.main(["submit", str(folder), *SUBMIT, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "attack.kind: got 'sign_flip', this track has 'none' (track mini-aya/open)" in line
