"""A run under a robust rule can be submitted, one with attackers cannot; a log that lies of the rule is found out."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench_runs import quick
from submissions import OPEN, Forgery, codes, context, honest, run_folders, submitted

from fedllm_bench import cli
from fedllm_bench.common import files
from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.checks.training import wrong_rules
from fedllm_bench.methods.registry import make_method

ROUNDS = "runs/0/rounds.jsonl.gz"
MEDIAN = ("--set", "aggregation.rule=median")
FLIP = ("--set", "attack.kind=sign_flip", "--set", "attack.clients=0,3")
CANARIES = ("--set", "data.canaries=2")
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


KRUM = ("aggregation.rule=krum", "aggregation.byzantine=0", "federation.weighting=uniform")


@pytest.mark.parametrize(
    ("kept", "is_possible"), [(None, True), ([1], True), ([0], False), ([3], False), ([1, 2], False), ([], False)]
)
def test_a_choice_that_the_rule_cannot_make_is_found_out(kept: Any, is_possible: bool, tiny_run_config: Any) -> None:
    """Client 0 failed and client 3 is not of the round. Older logs do not say whom they kept."""
    config = tiny_run_config("fedavg", *KRUM, "federation.clients_per_round=4")
    failures = ["no finite answer", None, None, None]
    line = SimpleNamespace(round=1, clients=[0, 1, 2, 4], failures=failures, rule="krum", kept=kept)
    run: Any = SimpleNamespace(config=config, method=make_method(config), num_clients=5, rounds=[line])
    wrong = [] if is_possible else [f"round 1 says that it kept {kept}, which its rule cannot"]
    assert list(wrong_rules(run)) == wrong


@pytest.mark.slow
def test_submit_refuses_a_run_with_attackers_in_one_line(tiny_split: Split, tmp_path: Path, capsys):
    with quick():
        (folder,) = run_folders(tiny_split, tmp_path / "runs", *FLIP, answers=False, seeds=(0,))
    capsys.readouterr()
    assert cli.main(["submit", str(folder), *SUBMIT, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "attack.kind: got 'sign_flip', this track has 'none' (track mini-aya/open)" in line


@pytest.mark.slow
@pytest.mark.parametrize("more", [FLIP, CANARIES], ids=["attacked", "canaries"])
def test_marks_that_were_edited_away_are_found_out(more, tiny_split: Split, tmp_path: Path, capsys):
    """`submit` finds an edited config.json; with its hash made right, the log of rounds tells an attack."""
    with quick():
        (folder,) = run_folders(tiny_split, tmp_path / "runs", *more, answers=False, seeds=(0,))
    config = files.read_json(folder / "config.json")
    config.pop("attack", None)
    config["data"].pop("canaries", None)
    files.write_json(folder / "config.json", config)
    capsys.readouterr()
    assert cli.main(["submit", str(folder), *SUBMIT, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "config.json was changed after the run" in line
    results = files.read_json(folder / "results.json")
    results["run"]["config_hash"] = line.partition("its hash is ")[2][:10]
    files.write_json(folder / "results.json", results)
    with quick():
        made = submitted([folder], tmp_path / "board")
    refused = codes(validate.validate(made, context(tiny_split)), "refused")
    assert ("log" in refused) == (more is FLIP)  # planted secrets leave no trace in the log: only `retrain` can tell
