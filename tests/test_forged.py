"""Forged submissions: each is refused, or flagged, for the reason that it is forged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forgeries
import pytest
from bench_runs import quick
from submissions import Forgery, codes, context, module, run_folders, submitted

from fedllm_bench.commands import answer
from fedllm_bench.data.manifest import Split


@pytest.fixture(scope="module")
def honest(tiny_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A submission of one run with answers and judgements."""
    out = tmp_path_factory.mktemp("honest")
    with quick(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer, "num_threads", lambda: 1)
        yield submitted(run_folders(tiny_split, out / "runs", seeds=(0,)), out / "board")


def validated(folder: Path, split: Split, **more: Any) -> Any:
    return module("validate").validate(folder, context(split, **more))


def test_an_honest_submission_is_accepted(honest: Path, tiny_split: Split):
    report = validated(honest, tiny_split)
    assert (codes(report), report.tier) == ({"few-seeds"}, "recomputed"), report.problems


def test_fixing_up_an_honest_submission_changes_nothing_that_is_checked(
    honest: Path, tiny_split: Split, tmp_path: Path
):
    """So a forgery is found for what it is, and not for how the tests write files."""
    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "copy")))
    forgery.fix_claims()
    assert codes(validated(forgery.folder, tiny_split)) == {"few-seeds"}


def test_there_are_at_least_forty_forgeries():
    assert len(forgeries.ALL) >= 60
    assert {code for _, expected in forgeries.ALL.values() for code in expected} <= set(module("problems").PROBLEMS)


FLAGGED = {"intervals", "adapter-untrained", "judge-injection"}


@pytest.mark.parametrize("name", forgeries.ALL)
def test_a_forgery_is_found(name: str, honest: Path, tiny_split: Split, tmp_path: Path):
    change, expected = forgeries.ALL[name]
    forgery = Forgery(Path(shutil.copytree(honest, tmp_path / "forged")))
    change(forgery)
    report = validated(forgery.folder, tiny_split)
    assert expected <= codes(report), report.problems
    assert expected - FLAGGED <= codes(report, "refused"), report.problems
    assert report.is_accepted == (not codes(report, "refused"))
