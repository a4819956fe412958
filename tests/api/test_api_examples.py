"""The examples that docs/api.md shows are run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest
from api_examples import IN_PROCESSES, ORDER, names_of, run_examples
from bench_runs import quick

import fedllm_bench as fb
from fedllm_bench.data.manifest import Split


def test_every_public_name_has_examples_or_takes_no_part() -> None:
    options = {"RunOptions", "TuneOptions", "DiversityOptions", "StatementOptions", "UserError"}
    assert {*ORDER, *IN_PROCESSES} | options == set(fb.__all__)


def test_the_examples_do_what_they_show(tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with quick():
        assert run_examples(ORDER, names_of(tiny_split), tmp_path) >= 20


@pytest.mark.slow
def test_the_examples_of_a_grid_do_what_they_show(
    tiny_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with quick():
        assert run_examples(IN_PROCESSES, names_of(tiny_split), tmp_path) >= 4
