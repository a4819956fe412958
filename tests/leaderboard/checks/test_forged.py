"""Forged submissions: each is refused, or flagged, for the reason that it is forged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from forgeries import ANSWERS, PLAN, judgements
from forgeries_of_files import ALL
from submissions import Forgery, codes, context
from sweeps import sweep

from fedllm_bench.data.manifest import Split
from fedllm_bench.leaderboard.checks import validate
from fedllm_bench.leaderboard.submission import problems

FLAGGED = {"intervals", "adapter-untrained", "judge-injection"}


def validated(folder: Path, split: Split, **more: Any) -> Any:
    return validate.validate(folder, context(split, **more))


def test_an_honest_submission_is_accepted(honest: Path, tiny_split: Split):
    report = validated(honest, tiny_split)
    assert (codes(report), report.tier) == ({"few-seeds"}, "recomputed"), report.problems


def test_fixing_up_an_honest_submission_changes_nothing(honest: Path, tiny_split: Split, tmp_path: Path):
    """So a forgery is found for what it is, and not for how the tests write files."""
    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "copy")))
    forgery.fix_claims()
    assert codes(validated(forgery.folder, tiny_split)) == {"few-seeds"}


def test_the_base_need_not_answer_where_it_was_not_asked(honest: Path, tiny_split: Split, tmp_path: Path):
    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "copy")))
    for path in [*forgery.folder.rglob("answers/*/base.jsonl.gz"), *forgery.folder.rglob("mini/base.jsonl.gz")]:
        path.unlink(missing_ok=True)
    forgery.fix_claims()
    assert "uncovered" in codes(validated(forgery.folder, tiny_split), "refused")  # the plan says that it was
    forgery.json(PLAN, lambda plan: plan["sides"].pop("base"))
    forgery.fix_claims()
    assert codes(validated(forgery.folder, tiny_split)) == {"few-seeds"}
    forgery.json(PLAN, lambda plan: plan["sides"].clear())
    (forgery.folder / ANSWERS).unlink()
    (forgery.folder / judgements(forgery)).unlink()
    forgery.fix_claims()
    assert "uncovered" in codes(validated(forgery.folder, tiny_split), "refused")  # the trained model must


def test_there_are_more_than_forty_forgeries():
    assert len(ALL) >= 65
    assert {code for _, expected in ALL.values() for code in expected} <= set(problems.PROBLEMS)


def one_of_each_code() -> list[str]:
    """The first forgery that each check finds; the others are slow."""
    return list({frozenset(expected): name for name, (_, expected) in reversed(ALL.items())}.values())


@pytest.mark.parametrize("name", sweep(ALL, *one_of_each_code()))
def test_a_forgery_is_found(name: str, honest: Path, tiny_split: Split, tmp_path: Path):
    change, expected = ALL[name]
    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "forged")))
    change(forgery)
    report = validated(forgery.folder, tiny_split)
    assert expected <= codes(report), report.problems
    assert expected - FLAGGED <= codes(report, "refused"), report.problems
    assert report.is_accepted == (not codes(report, "refused"))
